// Fleets: models.application with its tags and variables, models.service.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { as, fails, newDevice, newFleet, newRelease, organization, report, unique } from './world.mjs';

const notFound = 'BalenaApplicationNotFound';

describe('models.application', () => {
	let sdk, stranger, org;
	before(async () => {
		sdk = await as('admin');
		stranger = await as('stranger');
		org = await organization();
	});

	it('creates a fleet with the defaults of the contract', async () => {
		const name = unique('Fleet');
		const fleet = await sdk.models.application.create({ name, deviceType: 'raspberrypi4-64', organization: org });
		assert.equal(fleet.app_name, name);
		assert.equal(fleet.slug, `${org}/${name.toLowerCase()}`);
		assert.match(fleet.uuid, /^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
		assert.deepEqual(
			[fleet.is_of__class, fleet.should_track_latest_release, fleet.is_public, fleet.is_host, fleet.is_archived, fleet.should_be_running__release],
			['fleet', true, false, false, false, null],
		);
		const same = await sdk.models.application.get(fleet.id, { $expand: { is_for__device_type: { $select: 'slug' }, application_type: { $select: 'slug' } } });
		assert.equal(same.is_for__device_type[0].slug, 'raspberrypi4-64');
		assert.equal(same.application_type[0].slug, 'default');
		assert.equal((await sdk.models.application.get(fleet.slug)).id, fleet.id);
		assert.equal((await sdk.models.application.get(fleet.slug.toUpperCase())).id, fleet.id);
		assert.equal((await sdk.models.application.get(fleet.uuid)).id, fleet.id);
		assert.equal((await sdk.models.application.getDirectlyAccessible(fleet.slug)).id, fleet.id);
		assert.equal((await sdk.models.application.getAppByName(name)).id, fleet.id);
		assert.ok(sdk.models.application.getDashboardUrl(fleet.id).endsWith(`/apps/${fleet.id}`));
	});

	it('creates with a uuid and a class of its own', async () => {
		const uuid = '0123456789ab4def8123456789abcdef'.replace(/^.{8}/, unique('').slice(1));
		const block = await sdk.models.application.create({ name: unique('block'), uuid, applicationClass: 'block', deviceType: 'generic-amd64', organization: org });
		assert.deepEqual([block.uuid, block.is_of__class], [uuid, 'block']);
		await fails(
			sdk.models.application.create({ name: unique('x'), uuid: 'f'.repeat(32), deviceType: 'generic-amd64', organization: org }),
			/Application UUID must be a 32 character long lower case UUID version 4/,
		);
	});

	it('says what is wrong with a new fleet', async () => {
		const taken = await newFleet();
		const create = (options) => sdk.models.application.create({ name: unique('x'), deviceType: 'generic-amd64', organization: org, ...options });
		await fails(create({ name: taken.app_name }), /unique/i);
		await fails(create({ name: 'no spaces' }), /App name may only contain \[a-zA-Z0-9_-\]\./);
		await fails(create({ name: 'abc' }), /greater than or equal to 4 and is less than or equal to 100/);
		await fails(create({ deviceType: 'toaster' }), 'BalenaInvalidDeviceType');
		await fails(create({ organization: 'nobody-s-organization' }), 'BalenaOrganizationNotFound');
		await fails(create({ organization: undefined }), 'BalenaInvalidParameterError');
		await fails(stranger.models.application.create({ name: unique('x'), deviceType: 'generic-amd64', organization: org }), 'BalenaOrganizationNotFound');
	});

	it('lists what one may see', async () => {
		const fleet = await newFleet();
		assert.equal(await sdk.models.application.hasAny(), true);
		assert.equal(await sdk.models.application.has(fleet.slug), true);
		assert.equal(await stranger.models.application.has(fleet.slug), false);
		const names = (await sdk.models.application.getAll()).map((row) => row.app_name);
		assert.deepEqual(names, [...names].sort((a, b) => (a < b ? -1 : 1)));
		assert.ok((await sdk.models.application.getAllByOrganization(org)).some((row) => row.id === fleet.id));
		assert.ok((await sdk.models.application.getAllDirectlyAccessible()).some((row) => row.id === fleet.id));
		for (const list of [stranger.models.application.getAll(), stranger.models.application.getAllDirectlyAccessible()]) {
			assert.equal((await list).some((row) => row.id === fleet.id), false);
		}
		await fails(stranger.models.application.get(fleet.id), notFound);
		await fails(sdk.models.application.get('nobody/nothing'), notFound);
		await fails(sdk.models.application.get(999999), notFound);
		await fails(sdk.models.application.getAppByName('nothing-is-called-so'), notFound);
	});

	it('renames, moves and deletes', async () => {
		const fleet = await newFleet();
		const name = unique('renamed');
		await sdk.models.application.rename(fleet.id, name);
		assert.deepEqual(
			(({ app_name, slug }) => ({ app_name, slug }))(await sdk.models.application.get(fleet.id)),
			{ app_name: name, slug: `${org}/${name}` },
		);
		const other = await newFleet();
		await fails(sdk.models.application.rename(fleet.id, other.app_name), /unique/i);
		await fails(stranger.models.application.rename(fleet.id, 'mine'), notFound);

		const elsewhere = await sdk.models.organization.create({ name: unique('elsewhere') });
		await sdk.pine.patch({ resource: 'application', id: fleet.id, body: { organization: elsewhere.id } });
		assert.equal((await sdk.models.application.get(fleet.id)).slug, `${elsewhere.handle}/${name}`);

		await fails(stranger.models.application.remove(fleet.slug), notFound);
		await sdk.models.application.remove(fleet.id);
		await sdk.models.application.remove(other.slug);
		await fails(sdk.models.application.get(fleet.id), notFound);
		assert.equal(await sdk.models.application.has(other.slug), false);
		await sdk.models.organization.remove(elsewhere.id);
	});

	it('stays on its processor architecture', async () => {
		const fleet = await newFleet();
		const type = async (slug) => (await sdk.models.deviceType.get(slug, { $select: 'id' })).id;
		const change = async (slug) => sdk.pine.patch({ resource: 'application', id: fleet.id, body: { is_for__device_type: await type(slug) } });
		await change('intel-nuc');
		await fails(change('raspberrypi3'), /The new default device type should be of the same cpu architecture as the previous one\./);
	});

	it('grants and revokes support access', async () => {
		const fleet = await newFleet();
		const until = Date.now() + 3600_000;
		await sdk.models.application.grantSupportAccess(fleet.id, until);
		const read = async () => (await sdk.models.application.get(fleet.id)).is_accessible_by_support_until__date;
		assert.equal(Date.parse(await read()), until);
		await sdk.models.application.revokeSupportAccess(fleet.id);
		assert.equal(await read(), null);
		await fails(sdk.models.application.grantSupportAccess(fleet.id, Date.now() - 1000), 'BalenaInvalidParameterError');
		await fails(stranger.models.application.grantSupportAccess(fleet.slug, until), notFound);
	});

	it('switches the public URLs of all its devices', async () => {
		const fleet = await newFleet();
		const device = await newDevice(fleet);
		await sdk.models.application.enableDeviceUrls(fleet.slug);
		assert.equal(await sdk.models.device.hasDeviceUrl(device.uuid), true);
		await sdk.models.application.disableDeviceUrls(fleet.slug);
		assert.equal(await sdk.models.device.hasDeviceUrl(device.uuid), false);
	});
});

describe('models.application: releases', () => {
	it('tracks the newest release, or is pinned to one', async () => {
		const sdk = await as('admin');
		const app = sdk.models.application;
		const fleet = await newFleet();
		const first = await newRelease(fleet);
		const second = await newRelease(fleet);
		assert.equal(await app.willTrackNewReleases(fleet.id), true);
		assert.equal(await app.isTrackingLatestRelease(fleet.id), true);
		assert.equal(await app.getTargetReleaseHash(fleet.slug), second.commit);
		await app.pinToRelease(fleet.slug, first.commit);
		assert.equal(await app.getTargetReleaseHash(fleet.slug), first.commit);
		assert.equal(await app.willTrackNewReleases(fleet.id), false);
		assert.equal(await app.isTrackingLatestRelease(fleet.id), false);
		await fails(app.pinToRelease(fleet.slug, 'f'.repeat(32)), 'BalenaReleaseNotFound');
		const foreign = await newRelease(await newFleet());
		await fails(app.pinToRelease(fleet.slug, foreign.commit), 'BalenaReleaseNotFound');
		await fails(
			sdk.pine.patch({ resource: 'application', id: fleet.id, body: { should_be_running__release: foreign.id, should_track_latest_release: false } }),
			/It is necessary that/,
		);
		await app.trackLatestRelease(fleet.slug);
		assert.equal(await app.getTargetReleaseHash(fleet.slug), second.commit);
		assert.equal(await app.isTrackingLatestRelease(fleet.id), true);
	});

	it('shows what its devices run', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const release = await newRelease(fleet, { services: ['web', 'worker'] });
		const device = await newDevice(fleet);
		const state = await sdk.models.device.getSupervisorTargetState(device.uuid, 3);
		const services = state[device.uuid].apps[fleet.uuid].releases[release.commit].services;
		const running = Object.fromEntries(Object.entries(services).map(([name, s]) => [name, { image: s.image, status: 'Running' }]));
		await report(device, { status: 'Idle', apps: { [fleet.uuid]: { release_uuid: release.commit, releases: { [release.commit]: { update_status: 'done', services: running } } } } });
		const detail = await sdk.models.application.getWithDeviceServiceDetails(fleet.slug);
		const [shown] = detail.owns__device;
		assert.equal(shown.id, device.id);
		const current = shown.current_services_by_app[fleet.slug];
		assert.deepEqual(Object.keys(current).sort(), ['web', 'worker']);
		assert.deepEqual([current.web[0].status, current.web[0].commit], ['Running', release.commit]);
	});
});

describe('models.application.tags', () => {
	it('sets, changes, lists and removes tags', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const { tags } = sdk.models.application;
		await tags.set(fleet.slug, 'place', 'roof');
		await tags.set(fleet.id, 'place', 'cellar');
		await tags.set(fleet.uuid, 'colour', '');
		assert.deepEqual((await tags.getAllByApplication(fleet.slug)).map((tag) => [tag.tag_key, tag.value]), [['colour', ''], ['place', 'cellar']]);
		await tags.remove(fleet.slug, 'place');
		assert.deepEqual((await tags.getAllByApplication(fleet.id)).map((tag) => tag.tag_key), ['colour']);
		await fails(tags.set(fleet.id, 'a b', 'x'), /Tag keys cannot contain whitespace\./);
		await fails(tags.set(fleet.id, 'io.resin.x', 'x'), /Tag keys beginning with io\.resin\. are reserved\./);
		await fails(tags.set(fleet.id, 'io.balena.x', 'x'), /Tag keys beginning with io\.balena\. are reserved\./);
		await fails(tags.set(fleet.id, '', 'x'), 'BalenaRequestError');
		const stranger = await as('stranger');
		await fails(stranger.models.application.tags.set(fleet.id, 'mine', 'x'), notFound);
		await fails(stranger.models.application.tags.getAllByApplication(fleet.slug), notFound);
	});
});

for (const [kind, name] of [['envVar', 'EDITOR'], ['configVar', 'BALENA_HOST_CONFIG_gpu_mem'], ['buildVar', 'GOFLAGS']]) {
	describe(`models.application.${kind}`, () => {
		it('sets, changes, reads, lists and removes', async () => {
			const sdk = await as('admin');
			const fleet = await newFleet();
			const vars = sdk.models.application[kind];
			assert.equal(await vars.get(fleet.slug, name), undefined);
			await vars.set(fleet.slug, name, 'vim');
			await vars.set(fleet.id, name, 'ed'); // an upsert
			assert.equal(await vars.get(fleet.slug, name), 'ed');
			assert.deepEqual((await vars.getAllByApplication(fleet.id)).map((row) => [row.name, row.value]), [[name, 'ed']]);
			await vars.remove(fleet.slug, name);
			assert.equal(await vars.get(fleet.id, name), undefined);
			const stranger = await as('stranger');
			await fails(stranger.models.application[kind].set(fleet.id, name, 'x'), notFound);
			await fails(stranger.models.application[kind].get(fleet.slug, name), notFound);
		});
	});
}

describe('variables', () => {
	it('have names that the contract allows', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const { envVar, configVar } = sdk.models.application;
		await fails(envVar.set(fleet.id, '1A', 'x'), /Environment variable names can only contain alphanumeric characters and underscores\./);
		await fails(envVar.set(fleet.id, 'RESIN_X', 'x'), /Environment variables beginning with RESIN_, BALENA_ are reserved\./);
		await fails(configVar.set(fleet.id, 'EDITOR', 'x'), /Configuration variables must be part of one of the following namespaces: RESIN_, BALENA_/);
		await fails(configVar.set(fleet.id, 'RESIN_a-b', 'x'), /Configuration variable names can only contain alphanumeric characters, underscores or a colon/);
		await fails(envVar.set(fleet.id, 'A', 'two\nlines'), /Variable values cannot contain line break characters/);
		await envVar.set(fleet.id, 'EMPTY', '');
		assert.equal(await envVar.get(fleet.id, 'EMPTY'), '');
	});
});

describe('models.service', () => {
	it('lists services and keeps variables for them', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		await newRelease(fleet, { services: ['web', 'worker'] });
		const services = await sdk.models.service.getAllByApplication(fleet.slug, { $orderby: { service_name: 'asc' } });
		assert.deepEqual(services.map((row) => row.service_name), ['web', 'worker']);
		const vars = sdk.models.service.var;
		const web = { application: fleet.slug, service_name: 'web' };
		assert.equal(await vars.get(web, 'A'), undefined);
		await vars.set(services[0].id, 'A', '1');
		await vars.set(web, 'A', '2');
		assert.equal(await vars.get(services[0].id, 'A'), '2');
		assert.deepEqual((await vars.getAllByService(web)).map((row) => [row.name, row.value]), [['A', '2']]);
		assert.deepEqual((await vars.getAllByApplication(fleet.id)).map((row) => row.service), [{ __id: services[0].id }]);
		await vars.remove(services[0].id, 'A');
		assert.deepEqual(await vars.getAllByService(services[0].id), []);
		await fails(vars.set({ application: fleet.slug, service_name: 'nothing' }, 'A', '1'), 'BalenaServiceNotFound');
		const stranger = await as('stranger');
		await fails(stranger.models.service.var.set(services[0].id, 'A', '1'), 'BalenaServiceNotFound');
	});
});
