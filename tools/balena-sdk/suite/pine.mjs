// The SDK's own door to the data: what its users write when no model has a function for it.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { as, fails, newDevice, newFleet, newRelease, organization } from './world.mjs';

describe('pine', () => {
	let sdk, fleet, device;
	before(async () => {
		sdk = await as('admin');
		fleet = await newFleet();
		device = await newDevice(fleet);
	});

	it('reads by natural keys, with expands that are counted, filtered and ordered', async () => {
		const row = await sdk.pine.get({
			resource: 'device',
			id: { uuid: device.uuid },
			options: {
				$select: ['id', 'uuid'],
				$expand: {
					belongs_to__application: { $select: 'slug', $expand: { owns__device: { $count: {} }, organization: { $select: 'handle' } } },
					device_tag: { $select: 'tag_key', $filter: { tag_key: { $startswith: 'a' } }, $orderby: { tag_key: 'desc' }, $top: 1 },
				},
			},
		});
		assert.deepEqual(row, {
			id: device.id,
			uuid: device.uuid,
			belongs_to__application: [{ slug: fleet.slug, owns__device: 1, organization: [{ handle: await organization() }] }],
			device_tag: [],
		});
		assert.equal(await sdk.pine.get({ resource: 'device', id: { uuid: 'f'.repeat(32) } }), undefined);
	});

	it('counts', async () => {
		const count = (options) => sdk.pine.get({ resource: 'device', options: { $count: options } });
		assert.equal(await count({ $filter: { belongs_to__application: fleet.id } }), 1);
		assert.equal(await count({ $filter: { uuid: 'f'.repeat(32) } }), 0);
		const busy = (than) => ({ $select: 'id', $filter: { $raw: `id eq ${fleet.id} and owns__device/$count gt ${than}` } });
		assert.deepEqual(await sdk.pine.get({ resource: 'application', options: busy(0) }), [{ id: fleet.id }]);
		assert.deepEqual(await sdk.pine.get({ resource: 'application', options: busy(1) }), []);
	});

	it('upserts, and gets or creates', async () => {
		const upsert = (value) =>
			sdk.pine.upsert({ resource: 'device_tag', id: { device: device.id, tag_key: 'upserted' }, body: { value } });
		await upsert('1');
		await upsert('2');
		const [tag] = await sdk.pine.get({ resource: 'device_tag', options: { $filter: { device: device.id } } });
		assert.deepEqual([tag.tag_key, tag.value, tag.device], ['upserted', '2', { __id: device.id }]);
		const got = await sdk.pine.getOrCreate({
			resource: 'device_tag', id: { device: device.id, tag_key: 'upserted' }, body: { value: '3' },
		});
		assert.deepEqual([got.id, got.value], [tag.id, '2']);
		const made = await sdk.pine.getOrCreate({ resource: 'device_tag', id: { device: device.id, tag_key: 'new' }, body: { value: '3' } });
		assert.equal(made.value, '3');
	});

	it('filters by what is linked', async () => {
		await newRelease(fleet, { services: ['web'] });
		const rows = await sdk.pine.get({
			resource: 'application',
			options: {
				$select: 'id',
				$filter: {
					owns__device: { $any: { $alias: 'd', $expr: { d: { uuid: device.uuid } } } },
					service: { $any: { $alias: 's', $expr: { s: { service_name: 'web' } } } },
					$not: { is_archived: true },
				},
			},
		});
		assert.deepEqual(rows, [{ id: fleet.id }]);
	});

	it('refuses what cannot be', async () => {
		const get = (resource, options) => sdk.pine.get({ resource, options });
		assert.equal((await fails(get('device', { $filter: { nothing: 1 } }), 'BalenaRequestError')).statusCode, 400);
		assert.equal((await fails(get('device', { $select: 'api_secret' }), 'BalenaRequestError')).statusCode, 400);
		assert.equal((await fails(get('no_such_resource'), 'BalenaRequestError')).statusCode, 401);
		const patch = (body) => sdk.pine.patch({ resource: 'device', id: device.id, body });
		assert.equal((await fails(patch({}), /No fields to update/)).statusCode, 400);
		await fails(patch({ overall_status: 'operational' }), 'BalenaRequestError');
		await fails(patch({ device_name: 7 }), /device_name/);
		await fails(sdk.pine.delete({ resource: 'device', options: {} }), 'BalenaRequestError');
		assert.equal(await sdk.models.device.has(device.uuid), true);
	});
});
