// Sessions, keys and public keys.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import { as, fails, newDevice, newFleet, newSdk, refused, unique, users } from './world.mjs';

describe('auth', () => {
	it('logs in by password, and out again', async () => {
		const sdk = await newSdk();
		await fails(sdk.auth.login({ ...users.admin, password: 'not the password' }), 'BalenaInvalidLoginCredentials');
		const token = await sdk.auth.authenticate(users.admin);
		assert.equal(await sdk.auth.isLoggedIn(), false, 'authenticate must not log in');
		await sdk.auth.loginWithToken(token);
		assert.equal(await sdk.auth.isLoggedIn(), true);
		assert.equal(await sdk.auth.getToken(), token);
		await sdk.auth.logout();
		assert.equal(await sdk.auth.isLoggedIn(), false);
		await fails(sdk.auth.getToken(), 'BalenaNotLoggedIn');
	});

	it('knows who it is', async () => {
		const sdk = await as('admin');
		const me = await sdk.auth.getUserInfo();
		assert.equal(me.email, users.admin.email);
		const who = await sdk.auth.whoami();
		assert.equal(who.actorType, 'user');
		assert.equal(who.actorTypeId, me.id);
		assert.equal(who.id, await sdk.auth.getActorId());
		assert.equal(who.id, me.actor);
	});

	it('does not ask for a second factor that was not set up', async () => {
		const sdk = await as('admin');
		assert.equal(await sdk.auth.twoFactor.isEnabled(), false);
		assert.equal(await sdk.auth.twoFactor.isPassed(), true);
	});

	it('is a device with a device key', async () => {
		const fleet = await newFleet();
		const device = await newDevice(fleet);
		const sdk = await newSdk();
		await sdk.auth.loginWithToken(device.api_key);
		const who = await sdk.auth.whoami();
		assert.deepEqual([who.actorType, who.actorTypeId, who.uuid], ['device', device.id, device.uuid]);
		await fails(sdk.auth.getUserInfo(), /user/i);
		assert.deepEqual(await sdk.models.application.getAllDirectlyAccessible(), []);
		assert.deepEqual((await sdk.pine.get({ resource: 'device', options: { $select: 'uuid' } })).map((row) => row.uuid), [device.uuid]);
	});

	it('reads its settings', async () => {
		const sdk = await as('admin');
		const all = await sdk.settings.getAll();
		assert.equal(await sdk.settings.get('apiUrl'), all.apiUrl);
	});
});

/** oneTimeCode is what an app shows for a seed in base32 in a step of 30 seconds (RFC 6238). */
function oneTimeCode(seed, step) {
	const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
	const bits = [...seed].map((letter) => letters.indexOf(letter).toString(2).padStart(5, '0')).join('');
	const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
	const counter = Buffer.alloc(8);
	counter.writeBigUInt64BE(BigInt(step));
	const sum = createHmac('sha1', key).update(counter).digest();
	return String((sum.readUInt32BE(sum[sum.length - 1] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

describe('auth.twoFactor', () => {
	// A code counts once, and the next one is good half a minute ahead: who set codes up has one left at once.
	const step = () => Math.floor(Date.now() / 30_000);
	const enrol = async (name) => {
		const sdk = await newSdk();
		await sdk.auth.login(users[name]);
		const seed = await sdk.auth.twoFactor.getSetupKey();
		assert.match(seed, /^[A-Z2-7]{32,}$/);
		await fails(sdk.auth.twoFactor.enable('000000'), 'BalenaRequestError');
		assert.equal(await sdk.auth.twoFactor.isEnabled(), false, 'a wrong code sets nothing up');
		const used = step();
		const token = await sdk.auth.twoFactor.enable(oneTimeCode(seed, used));
		assert.equal(await sdk.auth.getToken(), token);
		assert.deepEqual([await sdk.auth.twoFactor.isEnabled(), await sdk.auth.twoFactor.isPassed()], [true, true]);
		return { sdk, used: oneTimeCode(seed, used), next: () => oneTimeCode(seed, Math.max(used + 1, step())) };
	};
	const half = async (name) => {
		const sdk = await newSdk();
		await sdk.auth.login(users[name]);
		assert.deepEqual([await sdk.auth.twoFactor.isEnabled(), await sdk.auth.twoFactor.isPassed()], [true, false]);
		const err = await fails(sdk.models.organization.getAll(), /waits for the second factor/);
		assert.equal(err.statusCode, 401);
		return sdk;
	};

	it('sets codes up, and asks for one at the next login', async () => {
		const { used, next } = await enrol('careful');
		const sdk = await half('careful');
		await fails(sdk.auth.twoFactor.challenge(used), 'BalenaRequestError');
		await sdk.auth.twoFactor.challenge(next());
		assert.equal(await sdk.auth.twoFactor.isPassed(), true);
		assert.equal((await sdk.auth.getUserInfo()).email, users.careful.email);
		assert.ok((await sdk.models.organization.getAll()).length > 0);
	});

	it('verifies a code without keeping the token, and takes codes away for a code alone', async () => {
		const { sdk: first, next } = await enrol('wary');
		const sdk = await half('wary');
		const token = await sdk.auth.twoFactor.verify(next());
		assert.equal(await sdk.auth.twoFactor.isPassed(), false, 'verify must not log in');
		await sdk.auth.loginWithToken(token);
		assert.equal(await sdk.auth.twoFactor.isPassed(), true);
		// The SDK sends a password, which is what a thief has.
		await fails(first.auth.twoFactor.disable(users.wary.password), /the password alone does not do/);
		assert.equal(await first.auth.twoFactor.isEnabled(), true);
		refused.set('auth.twoFactor.disable', 'refused: the SDK sends a password, and one-time codes are taken away for a code alone (`roadstead two-factor`, the dashboard)');
	});
});

describe('models.apiKey', () => {
	it('creates, lists, changes, uses and revokes a named key', async () => {
		const sdk = await as('admin');
		const name = unique('key');
		const expiryDate = '2099-12-31T00:00:00.000Z';
		const secret = await sdk.models.apiKey.create({ name, expiryDate, description: 'of a test' });
		const find = async (n) => (await sdk.models.apiKey.getAllNamedUserApiKeys()).find((key) => key.name === n);
		const key = await find(name);
		assert.deepEqual([key.description, key.expiry_date], ['of a test', expiryDate]);
		assert.equal('key' in key, false, 'the secret is not readable');
		assert.ok((await sdk.models.apiKey.getAll()).some((row) => row.id === key.id));

		const robot = await newSdk();
		await robot.auth.loginWithToken(secret);
		assert.equal((await robot.auth.getUserInfo()).email, users.admin.email);
		await fails(robot.models.apiKey.create({ name: unique('key'), expiryDate: null }), 'BalenaNotLoggedIn');

		const renamed = unique('key');
		await sdk.models.apiKey.update(key.id, { name: renamed, description: null, expiryDate: null });
		const changed = await find(renamed);
		assert.deepEqual([changed.id, changed.description, changed.expiry_date], [key.id, null, null]);
		await fails(sdk.models.apiKey.update(key.id, { name: '' }), 'BalenaInvalidParameterError');

		const stranger = await as('stranger');
		assert.equal((await stranger.models.apiKey.getAll()).some((row) => row.id === key.id), false);
		await stranger.models.apiKey.revoke(key.id); // nothing that is not there for them is changed
		assert.equal(await robot.auth.isLoggedIn(), true);

		await sdk.models.apiKey.revoke(key.id);
		assert.equal(await find(renamed), undefined);
		assert.equal(await robot.auth.isLoggedIn(), false);
	});

	it('wants an expiry date to be spelt out', async () => {
		const sdk = await as('admin');
		await fails(sdk.models.apiKey.create({ name: unique('key') }), 'BalenaInvalidParameterError');
	});

	it('lists the keys of fleets and of devices', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const device = await newDevice(fleet);
		await sdk.models.application.generateProvisioningKey({
			slugOrUuidOrId: fleet.slug, keyName: 'line 3', keyDescription: 'of the factory', keyExpiryDate: '2099-01-01T00:00:00.000Z',
		});
		const keys = await sdk.models.apiKey.getProvisioningApiKeysByApplication(fleet.slug, { $filter: { name: 'line 3' } });
		assert.deepEqual(keys.map((key) => [key.description, key.expiry_date]), [['of the factory', '2099-01-01T00:00:00.000Z']]);

		const secret = await sdk.models.device.generateDeviceKey(device.uuid, 'spare', 'a second one');
		const ofDevice = await sdk.models.apiKey.getDeviceApiKeysByDevice(device.uuid);
		assert.ok(ofDevice.some((key) => key.name === 'spare' && key.description === 'a second one'));
		const itself = await newSdk();
		await itself.auth.loginWithToken(secret);
		assert.equal((await itself.auth.whoami()).uuid, device.uuid);
		const stranger = await as('stranger');
		await fails(stranger.models.device.generateDeviceKey(device.uuid), 'BalenaDeviceNotFound');
		await fails(stranger.models.apiKey.getProvisioningApiKeysByApplication(fleet.id), 'BalenaApplicationNotFound');
	});
});

describe('models.key', () => {
	const publicKey = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPn3SAl0XNepBrKIwqu97e8GN6u41trFccff+VLRF3Dz';
	it('creates, reads and deletes a public key', async () => {
		const sdk = await as('admin');
		const title = unique('laptop');
		const key = await sdk.models.key.create(title, ` ${publicKey} somebody@example.com\n`);
		assert.equal(key.title, title);
		assert.ok(key.public_key.startsWith(publicKey));
		assert.deepEqual(await sdk.models.key.get(key.id), key);
		assert.ok((await sdk.models.key.getAll()).some((row) => row.id === key.id));
		await fails(sdk.models.key.create(title, key.public_key), /unique/i);

		const stranger = await as('stranger');
		await fails(stranger.models.key.get(key.id), 'BalenaKeyNotFound');
		assert.deepEqual(await stranger.models.key.getAll(), []);
		await fails(
			stranger.pine.post({
				resource: 'user__has__public_key',
				body: { title, public_key: publicKey, user: (await sdk.auth.getUserInfo()).id },
			}),
			'BalenaRequestError',
		);

		await sdk.models.key.remove(key.id);
		await fails(sdk.models.key.get(key.id), 'BalenaKeyNotFound');
	});

	it('refuses what is no key', async () => {
		const sdk = await as('admin');
		await fails(sdk.models.key.create(unique('laptop'), 'not a key'), 'BalenaRequestError');
		await fails(sdk.models.key.get(99999999999), 'BalenaRequestError');
	});
});
