// Devices: models.device with its tags, variables and history, and logs.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { as, asDevice, fails, ids, newDevice, newFleet, newRelease, organization, report, unique } from './world.mjs';

const notFound = 'BalenaDeviceNotFound';

describe('models.device', () => {
	let sdk, stranger, fleet, device;
	before(async () => {
		sdk = await as('admin');
		stranger = await as('stranger');
		fleet = await newFleet();
		device = await newDevice(fleet);
	});

	it('registers', async () => {
		const uuid = sdk.models.device.generateUniqueKey();
		assert.match(uuid, /^[0-9a-f]{32}$/);
		const fresh = await sdk.models.device.register(fleet.slug, uuid, 'intel-nuc');
		assert.deepEqual([fresh.uuid, typeof fresh.id, fresh.api_key.length >= 32], [uuid, 'number', true]);
		const row = await sdk.models.device.get(uuid, { $expand: { is_of__device_type: { $select: 'slug' } } });
		assert.equal(row.is_of__device_type[0].slug, 'intel-nuc');
		assert.equal(row.is_active, false);
		assert.ok(row.device_name.length > 0, 'a name is invented');
		await fails(sdk.models.device.register(fleet.slug, uuid), /unique/i);
		await fails(sdk.models.device.register(fleet.slug, sdk.models.device.generateUniqueKey(), 'raspberrypi3'), 'BalenaInvalidDeviceType');
		await fails(sdk.models.device.register('nobody/nothing', sdk.models.device.generateUniqueKey()), 'BalenaApplicationNotFound');
		await fails(sdk.models.device.register(fleet.slug, 'not hexadecimal'), 'BalenaRequestError');
		await fails(stranger.models.device.register(fleet.slug, sdk.models.device.generateUniqueKey()), 'BalenaApplicationNotFound');
		await sdk.models.device.remove(uuid);
		await fails(sdk.models.device.get(uuid), notFound);
	});

	it('reads', async () => {
		const row = await sdk.models.device.get(device.uuid);
		assert.deepEqual([row.id, row.belongs_to__application], [device.id, { __id: fleet.id }]);
		assert.equal((await sdk.models.device.get(device.id)).uuid, device.uuid);
		assert.equal(await sdk.models.device.has(device.uuid), true);
		assert.equal(await sdk.models.device.has(sdk.models.device.generateUniqueKey()), false);
		assert.deepEqual(ids(await sdk.models.device.getAllByApplication(fleet.slug)), [device.id]);
		assert.ok(ids(await sdk.models.device.getAllByOrganization(await organization())).includes(device.id));
		assert.deepEqual(ids(await sdk.models.device.getByName(row.device_name)), [device.id]);
		assert.equal(await sdk.models.device.getName(device.uuid), row.device_name);
		assert.equal(await sdk.models.device.getApplicationName(device.uuid), fleet.app_name);
		assert.ok(sdk.models.device.getDashboardUrl(device.uuid).endsWith(`/devices/${device.uuid}/summary`));
		await fails(sdk.models.device.getByName('nobody is called so'), notFound);
		for (const call of ['get', 'getName', 'getStatus', 'remove']) await fails(stranger.models.device[call](device.uuid), notFound);
		await fails(stranger.models.device.getAllByApplication(fleet.slug), 'BalenaApplicationNotFound');
	});

	it('renames, notes and places', async () => {
		const name = unique('device');
		await sdk.models.device.rename(device.uuid, name);
		await sdk.models.device.setNote(device.uuid, 'behind the door');
		await sdk.models.device.setCustomLocation(device.uuid, { latitude: 52.5, longitude: 13.4 });
		let row = await sdk.models.device.get(device.uuid);
		assert.deepEqual([row.device_name, row.note, row.custom_latitude, row.custom_longitude], [name, 'behind the door', '52.5', '13.4']);
		assert.deepEqual([row.latitude, row.longitude], ['52.5', '13.4']);
		await sdk.models.device.unsetCustomLocation(device.uuid);
		row = await sdk.models.device.get(device.uuid);
		assert.deepEqual([row.custom_latitude, row.custom_longitude], ['', '']);
		await fails(sdk.models.device.rename(device.uuid, 'two\nlines'), /Device name cannot contain any newline characters\./);
		await fails(stranger.models.device.rename(device.uuid, 'mine'), notFound);
		await fails(stranger.models.device.setNote(device.id, 'mine'), notFound);
		assert.equal(await sdk.models.device.getName(device.uuid), name);
	});

	it('is inactive, then disconnected, then online', async () => {
		const fresh = await newDevice(fleet);
		assert.equal(await sdk.models.device.getStatus(fresh.uuid), 'inactive');
		assert.equal(await sdk.models.device.getProgress(fresh.uuid), null);
		await sdk.pine.patch({ resource: 'device', id: fresh.id, body: { is_online: true } });
		assert.equal(await sdk.models.device.getStatus(fresh.uuid), 'disconnected');
		assert.equal((await sdk.models.device.get(fresh.uuid)).is_active, true);
		await fails(sdk.models.device.deactivate(fresh.uuid), /Devices must be offline in order to be deactivated\./);
		assert.equal((await asDevice(fresh, 'GET', `/device/v3/${fresh.uuid}/state`)).status, 200);
		const row = await sdk.models.device.get(fresh.uuid, { $select: ['api_heartbeat_state', 'overall_status'] });
		assert.equal(row.api_heartbeat_state, 'online');
		assert.equal(row.overall_status, 'reduced-functionality', 'it polls, and is not on the control channel');
		await sdk.models.device.configVar.set(fresh.uuid, 'RESIN_SUPERVISOR_VPN_CONTROL', 'false');
		assert.equal(await sdk.models.device.getStatus(fresh.uuid), 'operational', 'nothing is missing where no control channel is wanted');
		assert.equal(await sdk.models.device.isOnline(fresh.uuid), false, 'nothing is connected to a control channel');
	});

	it('can be deactivated while it is offline', async () => {
		const fresh = await newDevice(fleet);
		await sdk.pine.patch({ resource: 'device', id: fresh.id, body: { is_online: true } });
		await sdk.pine.patch({ resource: 'device', id: fresh.id, body: { is_online: false } });
		await sdk.models.device.deactivate(fresh.uuid);
		assert.equal(await sdk.models.device.getStatus(fresh.uuid), 'inactive');
	});

	it('shows what the device reported', async () => {
		await report(device, {
			os_version: 'balenaOS 6.0.0+rev1', os_variant: 'dev', supervisor_version: '17.0.1', mac_address: '00:11:22:33:44:55 66:77:88:99:AA:BB',
			ip_address: '192.0.2.4', memory_usage: 100, memory_total: 1000, storage_usage: 2, storage_total: 20,
			storage_block_device: '/dev/mmcblk0p6', cpu_usage: 3, cpu_temp: 40, cpu_id: 'abcd', is_undervolted: false,
		});
		assert.deepEqual(await sdk.models.device.getMACAddresses(device.uuid), ['00:11:22:33:44:55', '66:77:88:99:AA:BB']);
		assert.deepEqual(await sdk.models.device.getMetrics(device.uuid), {
			memory_usage: 100, memory_total: 1000, storage_block_device: '/dev/mmcblk0p6', storage_usage: 2, storage_total: 20,
			cpu_usage: 3, cpu_temp: 40, cpu_id: 'abcd', is_undervolted: false,
		});
		assert.equal(sdk.models.device.getOsVersion(await sdk.models.device.get(device.uuid)), '6.0.0+rev1.dev');
	});

	it('moves between fleets of one architecture', async () => {
		const target = await newFleet();
		const moved = await newDevice(fleet);
		await sdk.models.device.move(moved.uuid, target.slug);
		assert.equal(await sdk.models.device.getApplicationName(moved.uuid), target.app_name);
		await sdk.models.device.move([moved.id], fleet.id);
		assert.equal(await sdk.models.device.getApplicationName(moved.uuid), fleet.app_name);
		await fails(sdk.models.device.move(moved.uuid, (await newFleet('raspberrypi3')).slug), 'BalenaInvalidDeviceType');
		await fails(sdk.models.device.move(moved.uuid, 'nobody/nothing'), 'BalenaApplicationNotFound');
		await fails(stranger.models.device.move(moved.uuid, fleet.slug), 'BalenaApplicationNotFound');
		const other = await stranger.models.application.create({
			name: unique('theirs'), deviceType: 'generic-amd64', organization: (await stranger.auth.getUserInfo()).username,
		});
		await fails(
			sdk.pine.patch({ resource: 'device', id: moved.id, body: { belongs_to__application: other.id } }),
			/Application doesn't exist or you have no access to it\./,
		);
	});

	it('has a public address only when asked for', async () => {
		assert.equal(await sdk.models.device.hasDeviceUrl(device.uuid), false);
		await fails(sdk.models.device.getDeviceUrl(device.uuid), /not web accessible/);
		await sdk.models.device.enableDeviceUrl(device.uuid);
		const base = (await sdk.models.config.getAll()).deviceUrlsBase;
		assert.equal(await sdk.models.device.getDeviceUrl(device.uuid), `https://${device.uuid}.${base}`);
		await sdk.models.device.disableDeviceUrl([device.id]);
		assert.equal(await sdk.models.device.hasDeviceUrl(device.uuid), false);
	});

	it('switches local mode and the update lock', async () => {
		const device2 = await newDevice(fleet);
		await fails(sdk.models.device.enableLocalMode(device2.uuid), /Device is not yet fully provisioned/);
		await report(device2, { os_version: 'balenaOS 6.0.0', os_variant: 'dev', supervisor_version: '17.0.1' });
		await sdk.pine.patch({ resource: 'device', id: device2.id, body: { is_online: true } });
		const row = await sdk.models.device.get(device2.uuid);
		assert.equal(sdk.models.device.getLocalModeSupport(row).supported, true);
		await sdk.models.device.enableLocalMode(device2.uuid);
		assert.equal(await sdk.models.device.isInLocalMode(device2.uuid), true);
		await sdk.models.device.disableLocalMode(device2.uuid);
		assert.equal(await sdk.models.device.isInLocalMode(device2.uuid), false);

		assert.equal(await sdk.models.device.hasLockOverride(device2.uuid), false);
		await sdk.models.application.configVar.set(fleet.id, 'RESIN_OVERRIDE_LOCK', '1');
		assert.equal(await sdk.models.device.hasLockOverride(device2.uuid), true);
		await sdk.models.device.disableLockOverride(device2.uuid);
		assert.equal(await sdk.models.device.hasLockOverride(device2.uuid), false);
		await sdk.models.device.enableLockOverride(device2.uuid);
		assert.equal(await sdk.models.device.hasLockOverride(device2.uuid), true);
	});

	it('grants and revokes support access', async () => {
		const until = Date.now() + 3600_000;
		await sdk.models.device.grantSupportAccess(device.uuid, until);
		assert.equal(Date.parse((await sdk.models.device.get(device.uuid)).is_accessible_by_support_until__date), until);
		await sdk.models.device.revokeSupportAccess([device.uuid]);
		assert.equal((await sdk.models.device.get(device.uuid)).is_accessible_by_support_until__date, null);
		await fails(stranger.models.device.grantSupportAccess(device.uuid, until), notFound);
	});

	it('acts on more at once than fit into one request', async () => {
		const many = [];
		for (let i = 0; i < 60; i++) many.push(newDevice(fleet)); // the SDK asks for 50 uuids at a time
		const uuids = (await Promise.all(many)).map((d) => d.uuid);
		await sdk.models.device.setNote(uuids, 'one of many');
		const noted = await sdk.models.device.getAllByApplication(fleet.slug, { $filter: { note: 'one of many' }, $select: 'uuid' });
		assert.deepEqual(noted.map((d) => d.uuid).sort(), [...uuids].sort());
		assert.equal(await sdk.pine.get({ resource: 'device', options: { $count: { $filter: { note: 'one of many' } } } }), 60);
		await sdk.models.device.remove(uuids);
		assert.deepEqual(await sdk.models.device.getAllByApplication(fleet.slug, { $filter: { note: 'one of many' } }), []);
	});

	it('removes several at once', async () => {
		const gone = [await newDevice(fleet), await newDevice(fleet)];
		await fails(stranger.models.device.remove(gone.map((d) => d.uuid)), notFound);
		await sdk.models.device.remove(gone.map((d) => d.uuid));
		for (const d of gone) assert.equal(await sdk.models.device.has(d.uuid), false);
	});
});

describe('models.device: releases', () => {
	let sdk, fleet, device, first, second;
	before(async () => {
		sdk = await as('admin');
		fleet = await newFleet();
		first = await newRelease(fleet, { services: ['web'] });
		second = await newRelease(fleet, { services: ['web', 'worker'] });
		device = await newDevice(fleet);
	});

	it('follows its fleet, or is pinned', async () => {
		const d = sdk.models.device;
		assert.equal(await d.isTrackingApplicationRelease(device.uuid), true);
		assert.equal(await d.getTargetReleaseHash(device.uuid), second.commit);
		await d.pinToRelease(device.uuid, first.commit);
		assert.equal(await d.isTrackingApplicationRelease(device.uuid), false);
		assert.equal(await d.getTargetReleaseHash(device.uuid), first.commit);
		await fails(d.pinToRelease(device.uuid, 'f'.repeat(32)), 'BalenaReleaseNotFound');
		const foreign = await newRelease(await newFleet());
		await fails(d.pinToRelease(device.uuid, foreign.id), 'BalenaReleaseNotFound');
		await fails(sdk.pine.patch({ resource: 'device', id: device.id, body: { is_pinned_on__release: foreign.id } }), /It is necessary that/);
		await d.trackApplicationRelease([device.uuid]);
		assert.equal(await d.getTargetReleaseHash(device.uuid), second.commit);
	});

	it('has the target state of that release', async () => {
		const v3 = await sdk.models.device.getSupervisorTargetState(device.uuid, 3);
		const app = v3[device.uuid].apps[fleet.uuid];
		assert.deepEqual(Object.keys(app.releases), [second.commit]);
		assert.deepEqual(Object.keys(app.releases[second.commit].services).sort(), ['web', 'worker']);
		assert.equal(v3[device.uuid].config.RESIN_SUPERVISOR_POLL_INTERVAL.length > 0, true);
		const v2 = await sdk.models.device.getSupervisorTargetState(device.uuid);
		assert.equal(v2.local.apps[fleet.id].commit, second.commit);
		assert.equal(v2.local.apps[fleet.id].releaseId, second.id);
		const names = Object.values(v2.local.apps[fleet.id].services).map((s) => s.serviceName);
		assert.deepEqual(names.sort(), ['web', 'worker']);

		const forFleet = await sdk.models.device.getSupervisorTargetStateForApp(fleet.slug, first.commit);
		assert.deepEqual(Object.keys(forFleet[fleet.uuid].apps[fleet.uuid].releases), [first.commit]);
		const stranger = await as('stranger');
		await fails(stranger.models.device.getSupervisorTargetState(device.uuid, 3), notFound);
		await fails(stranger.models.device.getSupervisorTargetStateForApp(fleet.slug), 'BalenaApplicationNotFound');
	});

	it('keeps variables for one service of one device', async () => {
		const vars = sdk.models.device.serviceVar;
		const [web] = await sdk.models.service.getAllByApplication(fleet.slug, { $filter: { service_name: 'web' } });
		assert.equal(await vars.get(device.uuid, 'web', 'A'), undefined);
		await vars.set(device.uuid, 'web', 'A', '1');
		await vars.set(device.id, web.id, 'A', '2');
		assert.equal(await vars.get(device.id, web.id, 'A'), '2');
		assert.deepEqual((await vars.getAllByDevice(device.uuid)).map((row) => [row.name, row.value]), [['A', '2']]);
		assert.deepEqual((await vars.getAllByApplication(fleet.slug)).map((row) => row.name), ['A']);
		const target = await sdk.models.device.getSupervisorTargetState(device.uuid, 3);
		assert.equal(target[device.uuid].apps[fleet.uuid].releases[second.commit].services.web.environment.A, '2');
		await vars.remove(device.uuid, 'web', 'A');
		assert.deepEqual(await vars.getAllByDevice(device.uuid), []);
		await fails(vars.set(device.uuid, 'nothing', 'A', '1'), 'BalenaServiceNotFound');
	});

	it('shows what it runs, and what is downloading', async () => {
		const target = await sdk.models.device.getSupervisorTargetState(device.uuid, 3);
		const { services } = target[device.uuid].apps[fleet.uuid].releases[second.commit];
		await asDevice(device, 'GET', `/device/v3/${device.uuid}/state`);
		const apps = (update_status, status, download_progress) => ({
			[fleet.uuid]: {
				...(update_status === 'done' && { release_uuid: second.commit }),
				releases: { [second.commit]: { update_status, services: Object.fromEntries(Object.entries(services).map(([n, s]) => [n, { image: s.image, status, download_progress }])) } },
			},
		});
		await report(device, { apps: apps('downloading', 'Downloading', 40) });
		assert.equal(await sdk.models.device.getStatus(device.uuid), 'updating');
		assert.equal(await sdk.models.device.getProgress(device.uuid), 40);
		await report(device, { apps: apps('done', 'Running', null) });
		const detail = await sdk.models.device.getWithServiceDetails(device.uuid);
		const current = detail.current_services_by_app[fleet.slug];
		assert.deepEqual(Object.keys(current).sort(), ['web', 'worker']);
		assert.deepEqual(
			[current.web[0].status, current.web[0].commit, detail.is_running__release],
			['Running', second.commit, { __id: second.id }],
		);
	});
});

describe('models.device.tags', () => {
	it('sets, changes, lists and removes tags', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const device = await newDevice(fleet);
		const { tags } = sdk.models.device;
		await tags.set(device.uuid, 'place', 'roof');
		await tags.set(device.id, 'place', 'cellar');
		assert.deepEqual((await tags.getAllByDevice(device.uuid)).map((tag) => [tag.tag_key, tag.value]), [['place', 'cellar']]);
		assert.deepEqual((await tags.getAllByApplication(fleet.slug)).map((tag) => tag.device), [{ __id: device.id }]);
		await tags.remove(device.uuid, 'place');
		assert.deepEqual(await tags.getAllByDevice(device.id), []);
		const stranger = await as('stranger');
		await fails(stranger.models.device.tags.set(device.id, 'mine', 'x'), notFound);
		await fails(stranger.models.device.tags.set(device.uuid, 'mine', 'x'), notFound);
	});
});

for (const [kind, name] of [['envVar', 'EDITOR'], ['configVar', 'BALENA_HOST_CONFIG_gpu_mem']]) {
	describe(`models.device.${kind}`, () => {
		it('sets, changes, reads, lists and removes', async () => {
			const sdk = await as('admin');
			const fleet = await newFleet();
			const device = await newDevice(fleet);
			const vars = sdk.models.device[kind];
			assert.equal(await vars.get(device.uuid, name), undefined);
			await vars.set(device.uuid, name, '1');
			await vars.set(device.id, name, '2'); // an upsert
			assert.equal(await vars.get(device.uuid, name), '2');
			assert.deepEqual((await vars.getAllByDevice(device.uuid)).map((row) => [row.name, row.value]), [[name, '2']]);
			assert.deepEqual((await vars.getAllByApplication(fleet.slug)).map((row) => row.device), [{ __id: device.id }]);
			await vars.remove(device.uuid, name);
			assert.equal(await vars.get(device.uuid, name), undefined);
			const stranger = await as('stranger');
			await fails(stranger.models.device[kind].set(device.id, name, 'x'), notFound);
		});
	});
}

describe('models.device.history', () => {
	it('tells what a device was', async () => {
		const sdk = await as('admin');
		const [from, to] = [await newFleet(), await newFleet()];
		const device = await newDevice(from);
		await sdk.models.device.move(device.uuid, to.slug);
		const rows = await sdk.models.device.history.getAllByDevice(device.uuid, {}, { $orderby: { id: 'asc' } });
		assert.ok(rows.length >= 2, `${rows.length} rows`);
		assert.deepEqual(rows.at(0).belongs_to__application, { __id: from.id });
		assert.notEqual(rows.at(0).end_timestamp, null);
		assert.deepEqual(rows.at(-1).belongs_to__application, { __id: to.id });
		assert.equal(rows.at(-1).end_timestamp, null);
		assert.equal(rows.at(-1).uuid, device.uuid);
		assert.ok((await sdk.models.device.history.getAllByApplication(from.slug)).length >= 1);
		const past = { fromDate: new Date(0), toDate: new Date(Date.now() - 86400_000) };
		assert.deepEqual(await sdk.models.device.history.getAllByDevice(device.uuid, past), []);
		const stranger = await as('stranger');
		assert.deepEqual(await stranger.pine.get({ resource: 'device_history', options: { $filter: { uuid: device.uuid } } }), []);
	});
});

describe('logs', () => {
	it('reads what a device said, and follows it', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const device = await newDevice(fleet);
		const say = async (message, isSystem = true) => {
			const answer = await asDevice(device, 'POST', `/device/v2/${device.uuid}/logs`, [{ message, isSystem, timestamp: Date.now() }]);
			assert.equal(answer.status, 201);
		};
		assert.deepEqual(await sdk.logs.history(device.uuid), []);
		await say('first');
		await say('second');
		const lines = await sdk.logs.history(device.uuid);
		assert.deepEqual(lines.map((line) => line.message), ['first', 'second']);
		assert.deepEqual([lines[0].isSystem, lines[0].isStdErr, typeof lines[0].createdAt], [true, false, 'number']);
		assert.deepEqual((await sdk.logs.history(device.id, { count: 1 })).map((line) => line.message), ['second']);
		assert.deepEqual(await sdk.logs.history(device.uuid, { start: Date.now() + 60_000 }), []);

		const stream = await sdk.logs.subscribe(device.uuid, { count: 1 });
		try {
			const seen = [];
			await new Promise((resolve, reject) => {
				stream.on('error', reject);
				stream.on('line', (line) => {
					seen.push(line.message);
					if (seen.length === 1) say('third').catch(reject);
					if (seen.length === 2) resolve();
				});
			});
			assert.deepEqual(seen, ['second', 'third']);
		} finally {
			stream.unsubscribe();
		}
		const stranger = await as('stranger');
		await fails(stranger.logs.history(device.uuid), notFound);
		await fails(stranger.logs.subscribe(device.uuid), notFound);
	});
});
