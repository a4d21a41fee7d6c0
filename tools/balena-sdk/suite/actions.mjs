// Actions on a device go through its control channel. A device without one is offline for them, and each says so; so does a
// fleet without any device that could be reached.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { as, fails, newDevice, newFleet, newRelease, refused, report } from './world.mjs';

const offline = /No online device\(s\) found/;

const expectOffline = async (name, promise, want = offline, says = 'No online device(s) found') => {
	await fails(promise, want);
	refused.set(name, `refused while the device has no control channel: \`${says}\``);
};

describe('actions on a device that cannot be reached', () => {
	let sdk, fleet, device, image;
	before(async () => {
		sdk = await as('admin');
		fleet = await newFleet();
		await newRelease(fleet);
		device = await newDevice(fleet);
		const release = await sdk.models.release.getLatestByApplication(fleet.slug, { $expand: { release_image: { $select: 'image' } } });
		image = release.release_image[0].image.__id;
		// The SDK asks for a supervisor that is new enough before it lets one act on services.
		await report(device, { supervisor_version: '17.0.1' });
	});

	for (const call of ['ping', 'identify', 'restartApplication', 'reboot', 'shutdown', 'purge', 'update', 'getSupervisorState']) {
		it(call, async () => {
			await expectOffline(`models.device.${call}`, sdk.models.device[call](device.uuid, {}));
			const stranger = await as('stranger');
			await assert.rejects(stranger.models.device[call](device.uuid, {}));
		});
	}
	it('getLocalIPAddresses', async () => {
		const addresses = sdk.models.device.getLocalIPAddresses(device.uuid);
		await expectOffline('models.device.getLocalIPAddresses', addresses, /The device is offline/, 'The device is offline');
	});
	for (const call of ['startService', 'stopService', 'restartService']) {
		it(call, async () => {
			await expectOffline(`models.device.${call}`, sdk.models.device[call](device.uuid, image));
		});
	}
	for (const call of ['purge', 'reboot', 'shutdown', 'restart']) {
		it(`application.${call}`, async () => {
			await expectOffline(`models.application.${call}`, sdk.models.application[call](fleet.id));
			const stranger = await as('stranger');
			await assert.rejects(stranger.models.application[call](fleet.id));
		});
	}
});
