// What the platform itself offers: device types, operating systems, configuration.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { as, fails, newDevice, newFleet, report } from './world.mjs';

describe('models.deviceType', () => {
	let sdk;
	before(async () => {
		sdk = await as('admin');
	});

	it('finds types by slug, alias, name and id', async () => {
		const d = sdk.models.deviceType;
		const type = await d.get('raspberrypi4-64', { $expand: { is_of__cpu_architecture: { $select: 'slug' } } });
		assert.equal(type.is_of__cpu_architecture[0].slug, 'aarch64');
		assert.equal((await d.get(type.id)).slug, 'raspberrypi4-64');
		assert.equal((await d.getBySlugOrName(type.name)).id, type.id);
		assert.equal(await d.getName('raspberrypi4-64'), type.name);
		assert.equal(await d.getSlugByName(type.name), 'raspberrypi4-64');
		assert.equal((await d.get('raspberrypi')).slug, 'raspberry-pi', 'an alias');
		const all = await d.getAll();
		assert.ok(all.length >= 20, `${all.length} device types`);
		const names = all.map((row) => row.name);
		assert.deepEqual(names, [...names].sort((a, b) => (a < b ? -1 : 1)));
		for (const call of ['get', 'getBySlugOrName', 'getName', 'getSlugByName', 'getInstallMethod']) await fails(d[call]('toaster'), 'BalenaInvalidDeviceType');
	});

	it('tells how to install', async () => {
		const d = sdk.models.deviceType;
		assert.equal(await d.getInstallMethod('raspberrypi4-64'), 'externalBoot');
		assert.equal(await d.getInstallMethod('intel-nuc'), 'externalFlash');
		const steps = await d.getInstructions('raspberrypi4-64');
		assert.ok(Array.isArray(steps) ? steps.length > 0 : steps.Linux.length > 0);
		const contract = await d.getInterpolatedPartials('raspberrypi4-64');
		assert.equal(contract.slug, 'raspberrypi4-64');
	});
});

describe('models.config', () => {
	it('reads the site, the types and the schema of variables', async () => {
		const sdk = await as('admin');
		const c = sdk.models.config;
		const all = await c.getAll();
		for (const key of ['deployment', 'deviceUrlsBase', 'adminUrl', 'gitServerUrl', 'signupCodeRequired', 'supportedSocialProviders']) {
			assert.ok(key in all, `/config lacks ${key}`);
		}
		const types = await c.getDeviceTypes();
		assert.ok(types.length >= 20);
		const pi = await c.getDeviceTypeManifestBySlug('raspberrypi4-64');
		assert.deepEqual([pi.slug, pi.arch], ['raspberrypi4-64', 'aarch64']);
		assert.equal((await c.getDeviceTypeManifestBySlug('raspberrypi')).slug, 'raspberry-pi');
		await fails(c.getDeviceTypeManifestBySlug('toaster'), 'BalenaInvalidDeviceType');
		const groups = (await c.getDeviceOptions('raspberrypi4-64')).filter((option) => option.isGroup);
		assert.ok(groups.some((group) => group.options.some((option) => option.name === 'network')));

		const vars = await c.getConfigVarSchema();
		assert.deepEqual(vars.reservedNamespaces.sort(), ['BALENA_', 'RESIN_']);
		assert.ok('BALENA_SUPERVISOR_HARDWARE_METRICS' in vars.configVarSchema.properties);
		assert.equal('BALENA_HOST_CONFIG_hdmi_mode' in vars.configVarSchema.properties, false);
		assert.ok('BALENA_HOST_CONFIG_hdmi_mode' in (await c.getConfigVarSchema('raspberrypi4-64')).configVarSchema.properties);
	});
});

describe('models.os', () => {
	let sdk, fleet;
	before(async () => {
		sdk = await as('admin');
		fleet = await newFleet();
	});

	it('makes a config.json with a new provisioning key', async () => {
		const config = await sdk.models.os.getConfig(fleet.slug, {
			version: '6.0.0', network: 'wifi', wifiSsid: 'net', wifiKey: 'secret', appUpdatePollInterval: 15, developmentMode: true,
			provisioningKeyName: 'of a test', provisioningKeyExpiryDate: '2099-01-01T00:00:00.000Z',
		});
		assert.deepEqual(
			[config.applicationId, config.applicationName, config.deviceType, config.appUpdatePollInterval, config.wifiSsid, config.wifiKey, config.developmentMode],
			[fleet.id, fleet.app_name, 'generic-amd64', 15 * 60_000, 'net', 'secret', true],
		);
		assert.equal(config.apiEndpoint, process.env.API);
		assert.equal(config.listenPort, 48484);
		const keys = await sdk.models.apiKey.getProvisioningApiKeysByApplication(fleet.id, { $filter: { name: 'of a test' } });
		assert.equal(keys.length, 1);
		const uuid = sdk.models.device.generateUniqueKey();
		const answer = await fetch(`${process.env.API}/device/register`, {
			method: 'POST',
			headers: { Authorization: `Bearer ${config.apiKey}`, 'Content-Type': 'application/json' },
			body: JSON.stringify({ application: config.applicationId, uuid, device_type: config.deviceType }),
		});
		assert.equal(answer.status, 201, 'the key registers a device');
		await fails(sdk.models.os.getConfig('nobody/nothing', { version: '6.0.0' }), 'BalenaApplicationNotFound');
		await fails(sdk.models.os.getConfig(fleet.slug, {}), /version/i);
		await fails(sdk.models.os.getConfig(fleet.slug, { version: '1.2.0' }), /balenaOS versions <= 1\.2\.0 are no longer supported, please update/);
		const stranger = await as('stranger');
		await fails(stranger.models.os.getConfig(fleet.slug, { version: '6.0.0' }), 'BalenaApplicationNotFound');
	});

	it('knows which architectures go together', () => {
		assert.equal(sdk.models.os.isArchitectureCompatibleWith('aarch64', 'armv7hf'), true);
		assert.equal(sdk.models.os.isArchitectureCompatibleWith('armv7hf', 'aarch64'), false);
	});

	it('lists the versions of host fleets', async () => {
		const o = sdk.models.os;
		const versions = await o.getAvailableOsVersions('generic-amd64');
		assert.deepEqual(versions.map((v) => [v.raw_version, v.osType]), [['6.1.0', 'default'], ['6.0.0', 'default']]);
		const byType = await o.getAvailableOsVersions(['generic-amd64', 'raspberrypi4-64']);
		assert.deepEqual(Object.keys(byType), ['generic-amd64']);
		assert.ok((await o.getAllOsVersions('generic-amd64')).length >= versions.length);
		assert.deepEqual(await o.getAvailableOsVersions('toaster'), []);
		assert.equal(await o.getMaxSatisfyingVersion('generic-amd64', '^6.0.0'), '6.1.0');
		assert.equal(await o.getMaxSatisfyingVersion('generic-amd64', 'latest'), '6.1.0');
		assert.equal(await o.getMaxSatisfyingVersion('generic-amd64', '^7.0.0'), null);
		const supported = await sdk.models.deviceType.getAllSupported();
		assert.deepEqual(supported.map((type) => type.slug), ['generic-amd64']);
	});

	it('says which updates are possible, and sets one as the target', async () => {
		const o = sdk.models.os;
		assert.equal(await o.isSupportedOsUpdate('generic-amd64', '6.0.0', '6.1.0'), true);
		assert.equal(await o.isSupportedOsUpdate('generic-amd64', '6.1.0', '6.0.0'), false);
		assert.equal(typeof (await o.getOsUpdateType('generic-amd64', '6.0.0', '6.1.0')), 'string');
		const updates = await o.getSupportedOsUpdateVersions('generic-amd64', '6.0.0');
		assert.deepEqual([updates.versions, updates.recommended, updates.current], [['6.1.0'], '6.1.0', '6.0.0']);

		const device = await newDevice(fleet);
		await report(device, { os_version: 'balenaOS 6.0.0', os_variant: 'prod', supervisor_version: '17.0.1' });
		await sdk.models.device.pinToOsRelease(device.uuid, '6.1.0');
		const [version] = await o.getAvailableOsVersions('generic-amd64');
		assert.deepEqual((await sdk.models.device.get(device.uuid)).should_be_operated_by__release, { __id: version.id });
		await fails(sdk.models.device.pinToOsRelease(device.uuid, '99.0.0'), 'BalenaReleaseNotFound');
	});

	it('lists supervisors, and sets one as the target', async () => {
		const rows = await sdk.models.os.getSupervisorReleasesForCpuArchitecture('amd64');
		assert.deepEqual(rows.map((row) => row.raw_version), ['17.1.0']);
		const device = await newDevice(fleet);
		await report(device, { os_version: 'balenaOS 6.0.0', os_variant: 'prod', supervisor_version: '17.0.1' });
		await sdk.models.device.pinToSupervisorRelease(device.uuid, '17.1.0');
		assert.deepEqual((await sdk.models.device.get(device.uuid)).should_be_managed_by__release, { __id: rows[0].id });
		await fails(sdk.models.device.pinToSupervisorRelease(device.uuid, '99.0.0'), 'BalenaReleaseNotFound');
	});

	it('has no image to download', async () => {
		await fails(sdk.models.os.download({ deviceType: 'generic-amd64', version: '6.1.0' }), /No image found for device type/);
		await fails(sdk.models.os.getDownloadSize('generic-amd64', '6.1.0'), /No image found|not found/i);
	});
});
