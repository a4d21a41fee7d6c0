// What the SDK does without a login: public data is there, everything else says that nobody is logged in.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { as, fails, newDevice, newFleet, newRelease, newSdk, unique } from './world.mjs';

const notLoggedIn = 'BalenaNotLoggedIn';

describe('nobody', () => {
	let sdk, admin, open, closed, device, release;
	before(async () => {
		sdk = await newSdk();
		admin = await as('admin');
		open = await newFleet();
		closed = await newFleet();
		device = await newDevice(open);
		release = await newRelease(open);
		await admin.models.release.tags.set(release.id, 'colour', 'blue');
		await admin.models.application.tags.set(open.id, 'kind', 'public');
		await admin.pine.patch({ resource: 'application', id: open.id, body: { is_public: true } });
	});

	it('is not logged in', async () => {
		assert.equal(await sdk.auth.isLoggedIn(), false);
		assert.equal(await sdk.auth.whoami(), undefined);
		for (const call of ['getToken', 'getActorId', 'getUserInfo']) await fails(sdk.auth[call](), notLoggedIn);
	});

	it('reads the reference data', async () => {
		const type = await sdk.models.deviceType.get('generic-amd64', { $expand: { is_of__cpu_architecture: { $select: 'slug' } } });
		assert.equal(type.is_of__cpu_architecture[0].slug, 'amd64');
		const kinds = await sdk.pine.get({ resource: 'application_type', options: { $select: 'slug' } });
		assert.ok(kinds.some((kind) => kind.slug === 'default'));
		assert.ok((await sdk.pine.get({ resource: 'cpu_architecture' })).length >= 5);
		assert.ok((await sdk.models.config.getDeviceTypes()).length >= 20);
		assert.equal(typeof (await sdk.models.config.getAll()).deviceUrlsBase, 'string');
	});

	it('reads a public fleet, and no other', async () => {
		const fleet = await sdk.models.application.get(open.slug, { $expand: { application_tag: {} } });
		assert.equal(fleet.id, open.id);
		assert.equal(fleet.is_public, true);
		assert.deepEqual(fleet.application_tag.map((tag) => [tag.tag_key, tag.value]), [['kind', 'public']]);
		const slugs = (await sdk.models.application.getAll()).map((row) => row.slug);
		assert.ok(slugs.includes(open.slug));
		assert.ok(!slugs.includes(closed.slug));
		await fails(sdk.models.application.get(closed.slug), 'BalenaApplicationNotFound');
		assert.deepEqual(await sdk.models.application.getAllDirectlyAccessible(), []);
	});

	it("reads a public fleet's releases, and no other's", async () => {
		const rows = await sdk.models.release.getAllByApplication(open.id, { $expand: { release_tag: {} } });
		assert.deepEqual(rows.map((row) => row.id), [release.id]);
		assert.deepEqual(rows[0].release_tag.map((tag) => [tag.tag_key, tag.value]), [['colour', 'blue']]);
		assert.equal((await sdk.models.release.getWithImageDetails(release.id)).images[0].service_name, 'main');
		await fails(sdk.models.release.getAllByApplication(closed.id), 'BalenaApplicationNotFound');
	});

	it('sees nothing else', async () => {
		await fails(sdk.models.device.getAllByApplication(open.id), notLoggedIn);
		await fails(sdk.models.device.get(device.uuid), notLoggedIn);
		await fails(sdk.models.organization.getAll(), notLoggedIn);
		await fails(sdk.models.key.getAll(), notLoggedIn);
		await fails(sdk.models.apiKey.getAll(), notLoggedIn);
		await fails(sdk.models.application.envVar.getAllByApplication(open.id), notLoggedIn);
		await fails(sdk.models.device.tags.getAllByDevice(device.id), notLoggedIn);
		await fails(sdk.models.application.membership.getAllByApplication(open.id), notLoggedIn);
		for (const resource of ['user', 'device', 'api_key', 'service_install', 'device_history']) {
			await fails(sdk.pine.get({ resource }), notLoggedIn);
		}
	});

	it('writes nothing', async () => {
		await fails(sdk.pine.patch({ resource: 'application', id: open.id, body: { app_name: unique('mine') } }), notLoggedIn);
		await fails(sdk.models.application.tags.set(open.id, 'a', 'b'), notLoggedIn);
		await fails(sdk.models.application.remove(open.slug), notLoggedIn);
		await fails(sdk.models.release.setNote(release.id, 'mine'), notLoggedIn);
		await fails(sdk.models.key.create('mine', 'ssh-ed25519 AAAA'), notLoggedIn);
		await fails(sdk.models.apiKey.create({ name: 'mine', expiryDate: null }), notLoggedIn);
		assert.equal((await admin.models.application.get(open.id)).app_name, open.app_name);
	});
});
