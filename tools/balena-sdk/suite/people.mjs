// Organizations, who belongs to them, teams, and who may do what with a fleet.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { apiUrl, as, fails, newFleet, organization, unique, users } from './world.mjs';

/** link asks for what the invited person would be sent; the server sends no mail, so it gives it to those who invite. */
const link = async (sdk, where, invite) => {
	const { body } = await sdk.request.send({ method: 'POST', url: `/${where}/v1/invitations/${invite.id}/link`, baseUrl: apiUrl });
	assert.ok(Date.parse(body.expires_at) > Date.now());
	return body.token;
};

describe('models.organization', () => {
	it('creates, reads, renames and deletes', async () => {
		const sdk = await as('admin');
		const name = unique('Some Company');
		const created = await sdk.models.organization.create({ name });
		assert.equal(created.name, name);
		assert.match(created.handle, /^[a-z0-9_-]+$/);
		assert.deepEqual(await sdk.models.organization.get(created.id), created, 'the answer to a POST is what a GET gives');
		assert.deepEqual(await sdk.models.organization.get(created.handle), created);
		assert.ok((await sdk.models.organization.getAll()).some((row) => row.id === created.id));

		const second = await sdk.models.organization.create({ name });
		assert.notEqual(second.handle, created.handle);
		await sdk.pine.patch({ resource: 'organization', id: created.id, body: { name: 'New name', company_name: 'Ltd', website: 'https://example.com' } });
		const changed = await sdk.models.organization.get(created.id);
		assert.deepEqual([changed.name, changed.company_name, changed.website, changed.handle], ['New name', 'Ltd', 'https://example.com', created.handle]);

		const stranger = await as('stranger');
		await fails(stranger.models.organization.get(created.handle), 'BalenaOrganizationNotFound');
		await fails(stranger.models.organization.remove(created.handle), 'BalenaOrganizationNotFound');
		await sdk.models.organization.remove(created.handle);
		await sdk.models.organization.remove(second.id);
		await fails(sdk.models.organization.get(created.handle), 'BalenaOrganizationNotFound');
	});

	it('has one of its own for each user, called like them', async () => {
		for (const name of ['admin', 'stranger']) {
			const sdk = await as(name);
			const { username } = await sdk.auth.getUserInfo();
			assert.ok((await sdk.models.organization.getAll()).some((row) => row.handle === username));
		}
	});

	it('refuses a handle that is taken or malformed', async () => {
		const sdk = await as('admin');
		await fails(sdk.models.organization.create({ name: 'x', handle: await organization() }), /unique/i);
		await fails(sdk.models.organization.create({ name: 'x', handle: 'Not A Handle' }), 'BalenaRequestError');
	});
});

describe('models.organization.invite and .membership', () => {
	let sdk, stranger, org, their;
	before(async () => {
		sdk = await as('admin');
		stranger = await as('stranger');
		org = await sdk.models.organization.create({ name: unique('invites') });
		their = await stranger.auth.getUserInfo();
	});
	after(() => sdk.models.organization.remove(org.id));

	it('invites, lists and revokes', async () => {
		const invite = await sdk.models.organization.invite.create(org.id, { invitee: 'nobody@example.com', roleName: 'member', message: 'Join us' });
		assert.equal(invite.message, 'Join us');
		assert.deepEqual(invite.is_invited_to__organization, { __id: org.id });
		const options = { $expand: { invitee: { $select: 'email' }, organization_membership_role: { $select: 'name' } } };
		const [listed] = await sdk.models.organization.invite.getAllByOrganization(org.handle, options);
		assert.equal(listed.id, invite.id);
		assert.equal(listed.invitee[0].email, 'nobody@example.com');
		assert.equal(listed.organization_membership_role[0].name, 'member');
		assert.ok((await sdk.models.organization.invite.getAll()).some((row) => row.id === invite.id));
		await fails(sdk.models.organization.invite.create(org.id, { invitee: 'x@example.com', roleName: 'king' }), 'BalenaOrganizationMembershipRoleNotFound');
		await fails(stranger.models.organization.invite.create(org.id, { invitee: 'x@example.com' }), 'BalenaOrganizationNotFound');
		await fails(link(stranger, 'org', invite), 'BalenaRequestError');
		const token = await link(sdk, 'org', invite);
		await fails(stranger.models.organization.invite.accept(token), /for another e-mail address/);
		await sdk.models.organization.invite.revoke(invite.id);
		assert.deepEqual(await sdk.models.organization.invite.getAllByOrganization(org.id), []);
		await fails(stranger.models.organization.invite.accept(token), 'BalenaRequestError');
	});

	it('makes a member of who accepts', async () => {
		const invite = await sdk.models.organization.invite.create(org.id, { invitee: users.stranger.email, roleName: 'member' });
		await fails(stranger.models.organization.invite.accept('not-a-token'), 'BalenaRequestError');
		const token = await link(sdk, 'org', invite);
		await stranger.models.organization.invite.accept(token);
		await fails(stranger.models.organization.invite.accept(token), 'BalenaRequestError');
		assert.equal((await stranger.models.organization.get(org.handle)).id, org.id);
		assert.deepEqual(await sdk.models.organization.invite.getAllByOrganization(org.id), []);
	});

	it('lists, promotes, tags and removes members', async () => {
		const { membership } = sdk.models.organization;
		const options = { $expand: { user: { $select: 'username' }, organization_membership_role: { $select: 'name' } } };
		const members = await membership.getAllByOrganization(org.handle, options);
		assert.deepEqual(
			members.map((row) => [row.user[0].username, row.organization_membership_role[0].name]).sort(),
			[[users.admin.username, 'administrator'], [their.username, 'member']].sort(),
		);
		const theirs = members.find((row) => row.user[0].username === their.username);
		assert.equal((await membership.get(theirs.id)).id, theirs.id);
		assert.equal((await membership.get({ user: their.id, is_member_of__organization: org.id })).id, theirs.id);
		assert.ok((await membership.getAllByUser(their.username)).some((row) => row.id === theirs.id));
		assert.ok((await membership.getAllByUser(their.id)).some((row) => row.id === theirs.id));

		await membership.changeRole(theirs.id, 'administrator');
		assert.equal((await membership.get(theirs.id, options)).organization_membership_role[0].name, 'administrator');
		await membership.changeRole({ user: their.id, is_member_of__organization: org.id }, 'member');
		assert.equal((await membership.get(theirs.id, options)).organization_membership_role[0].name, 'member');
		await fails(membership.changeRole(theirs.id, 'king'), 'BalenaOrganizationMembershipRoleNotFound');
		await stranger.models.organization.membership.changeRole(theirs.id, 'administrator').catch(() => undefined);
		assert.equal((await membership.get(theirs.id, options)).organization_membership_role[0].name, 'member', 'a member promotes nobody');

		await membership.tags.set(theirs.id, 'desk', '7');
		await membership.tags.set(theirs.id, 'desk', '8');
		const tags = await membership.tags.getAllByOrganizationMembership(theirs.id);
		assert.deepEqual(tags.map((tag) => [tag.tag_key, tag.value]), [['desk', '8']]);
		assert.deepEqual((await membership.tags.getAllByOrganization(org.handle)).map((tag) => tag.id), [tags[0].id]);
		await membership.tags.remove(theirs.id, 'desk');
		assert.deepEqual(await membership.tags.getAllByOrganizationMembership(theirs.id), []);

		await membership.remove(theirs.id);
		await fails(stranger.models.organization.get(org.handle), 'BalenaOrganizationNotFound');
		const mine = members.find((row) => row.user[0].username === users.admin.username);
		await fails(membership.remove(mine.id), 'BalenaRequestError');
		assert.equal((await membership.getAllByOrganization(org.id)).length, 1, 'the last administrator stays');
	});
});

describe('models.application.membership and .invite', () => {
	let sdk, member, fleet, their;
	before(async () => {
		sdk = await as('admin');
		member = await as('member');
		their = await member.auth.getUserInfo();
		fleet = await newFleet();
		const org = await organization();
		const members = await sdk.models.organization.membership.getAllByOrganization(org, { $filter: { user: their.id } });
		if (members.length === 0) {
			const invite = await sdk.models.organization.invite.create(org, { invitee: users.member.email, roleName: 'member' });
			await member.models.organization.invite.accept(await link(sdk, 'org', invite));
		}
	});

	it('gives a member a role in a fleet, another one, and none', async () => {
		const { membership } = sdk.models.application;
		await fails(member.models.application.get(fleet.slug), 'BalenaApplicationNotFound');
		const row = await membership.create({ application: fleet.slug, username: their.username, roleName: 'observer' });
		assert.deepEqual([row.user, row.is_member_of__application], [{ __id: their.id }, { __id: fleet.id }]);
		assert.equal((await member.models.application.getDirectlyAccessible(fleet.slug)).id, fleet.id);
		await fails(member.models.application.envVar.set(fleet.id, 'A', '1'), 'BalenaRequestError');

		const key = { user: their.id, is_member_of__application: fleet.id };
		const role = async () =>
			(await membership.get(key, { $expand: { application_membership_role: { $select: 'name' } } })).application_membership_role[0].name;
		assert.equal(await role(), 'observer');
		assert.equal((await membership.get(row.id)).id, row.id);
		assert.deepEqual((await membership.getAllByApplication(fleet.slug)).map((m) => m.id), [row.id]);
		assert.ok((await membership.getAllByUser(their.username)).some((m) => m.id === row.id));
		assert.ok((await membership.getAllByUser(their.id)).some((m) => m.id === row.id));

		await membership.changeRole(key, 'developer');
		assert.equal(await role(), 'developer');
		await member.models.application.envVar.set(fleet.id, 'A', '1');
		assert.equal(await sdk.models.application.envVar.get(fleet.id, 'A'), '1');
		await membership.changeRole(row.id, 'operator');
		assert.equal(await role(), 'operator');
		await fails(membership.changeRole(row.id, 'king'), 'BalenaApplicationMembershipRoleNotFound');
		await fails(membership.create({ application: fleet.slug, username: their.username }), /unique/i);

		await membership.remove(key);
		await fails(membership.get(row.id), /not found/);
		await fails(member.models.application.get(fleet.slug), 'BalenaApplicationNotFound');
	});

	it('takes nobody in who is not in the organization', async () => {
		await fails(sdk.models.application.membership.create({ application: fleet.id, username: users.stranger.username }), /It is necessary/);
	});

	it('invites to a fleet', async () => {
		const { invite } = sdk.models.application;
		const row = await invite.create(fleet.slug, { invitee: 'nobody@example.com', roleName: 'developer', message: 'Have a look' });
		assert.deepEqual([row.message, row.is_invited_to__application], ['Have a look', { __id: fleet.id }]);
		const [listed] = await invite.getAllByApplication(fleet.id, { $expand: { invitee: { $select: 'email' } } });
		assert.deepEqual([listed.id, listed.invitee[0].email], [row.id, 'nobody@example.com']);
		assert.ok((await invite.getAll()).some((i) => i.id === row.id));
		await fails(invite.create(fleet.id, { invitee: 'x@example.com', roleName: 'king' }), 'BalenaApplicationMembershipRoleNotFound');
		await invite.revoke(row.id);
		assert.deepEqual(await invite.getAllByApplication(fleet.id), []);

		const second = await invite.create(fleet.id, { invitee: users.member.email, roleName: 'observer' });
		await member.models.application.invite.accept(await link(sdk, 'user', second));
		assert.equal((await member.models.application.get(fleet.slug)).id, fleet.id);
		assert.deepEqual(await invite.getAllByApplication(fleet.id), []);
		await sdk.models.application.membership.remove({ user: their.id, is_member_of__application: fleet.id });
	});
});

describe('models.team', () => {
	let sdk, member, org, fleet, their;
	before(async () => {
		sdk = await as('admin');
		member = await as('member');
		their = await member.auth.getUserInfo();
		org = await sdk.models.organization.get(await organization());
		fleet = await newFleet();
	});

	it('creates, reads, renames and deletes a team', async () => {
		const { team } = sdk.models;
		const name = unique('team');
		const created = await team.create(org.id, name);
		assert.deepEqual([created.name, created.belongs_to__organization], [name, { __id: org.id }]);
		assert.deepEqual(await team.get(created.id), created);
		assert.ok((await team.getAllByOrganization(org.handle)).some((row) => row.id === created.id));
		await fails(team.create(org.id, name), /unique/i);
		const renamed = unique('team');
		await team.rename(created.id, renamed);
		assert.equal((await team.get(created.id)).name, renamed);
		const stranger = await as('stranger');
		await fails(stranger.models.team.get(created.id), /Team not found/);
		await team.remove(created.id);
		await fails(team.get(created.id), /Team not found/);
	});

	it('gives its members access to fleets', async () => {
		const { team } = sdk.models;
		const t = await team.create(org.id, unique('team'));
		const membership = await team.membership.create({ team: t.id, username: their.username });
		assert.deepEqual([membership.user, membership.is_member_of__team], [{ __id: their.id }, { __id: t.id }]);
		assert.equal((await team.membership.get(membership.id)).id, membership.id);
		assert.deepEqual((await team.membership.getAllByTeam(t.id)).map((row) => row.id), [membership.id]);
		assert.ok((await team.membership.getAllByUser(their.username)).some((row) => row.id === membership.id));

		await fails(member.models.application.get(fleet.slug), 'BalenaApplicationNotFound');
		const access = await team.applicationAccess.add(t.id, fleet.slug, 'observer');
		assert.equal((await member.models.application.getDirectlyAccessible(fleet.slug)).id, fleet.id);
		const role = async () =>
			(await team.applicationAccess.get(access.id, { $expand: { application_membership_role: { $select: 'name' } } })).application_membership_role[0].name;
		assert.equal(await role(), 'observer');
		await team.applicationAccess.update(access.id, 'developer');
		assert.equal(await role(), 'developer');
		await member.models.application.envVar.set(fleet.id, 'BY', 'team');
		assert.deepEqual((await team.applicationAccess.getAllByTeam(t.id)).map((row) => row.id), [access.id]);
		await team.applicationAccess.remove(access.id);
		await fails(member.models.application.get(fleet.slug), 'BalenaApplicationNotFound');
		await team.membership.remove(membership.id);
		assert.deepEqual(await team.membership.getAllByTeam(t.id), []);
		await team.remove(t.id);
	});
});
