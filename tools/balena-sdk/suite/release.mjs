// Releases with their notes, tags and assets, and the images inside them.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { as, fails, newFleet, newRelease, roadstead as run } from './world.mjs';

const notFound = 'BalenaReleaseNotFound';

describe('models.release', () => {
	let sdk, stranger, fleet, first, second, draft;
	before(async () => {
		sdk = await as('admin');
		stranger = await as('stranger');
		fleet = await newFleet();
		first = await newRelease(fleet);
		second = await newRelease(fleet, { services: ['web', 'worker'] });
		draft = await newRelease(fleet, { args: ['--draft'] });
	});

	it('reads by id, commit and version', async () => {
		const r = sdk.models.release;
		const row = await r.get(second.id);
		assert.deepEqual([row.commit, row.status, row.is_final, row.belongs_to__application], [second.commit, 'success', true, { __id: fleet.id }]);
		assert.equal((await r.get(second.commit)).id, second.id);
		assert.equal((await r.get({ application: fleet.slug, rawVersion: row.raw_version })).id, second.id);
		assert.deepEqual((await r.getAllByApplication(fleet.slug)).map((x) => x.id), [draft.id, second.id, first.id]);
		assert.equal((await r.getLatestByApplication(fleet.id)).id, draft.id);
		for (const wrong of ['f'.repeat(32), 999999, { application: fleet.slug, rawVersion: '99.0.0' }]) await fails(r.get(wrong), notFound);
		for (const right of [second.id, second.commit]) await fails(stranger.models.release.get(right), notFound);
		await fails(stranger.models.release.getAllByApplication(fleet.slug), 'BalenaApplicationNotFound');
	});

	it('numbers versions', async () => {
		const rows = await sdk.models.release.getAllByApplication(fleet.id, { $orderby: { id: 'asc' } });
		assert.deepEqual(rows.slice(0, 2).map((row) => [row.raw_version, row.revision]), [['0.0.0', 0], ['0.0.0+rev1', 1]]);
		assert.match(rows[2].raw_version, /^0\.0\.0-\d{13}$/);
		assert.equal(rows[2].revision, null);
		assert.deepEqual(rows[1].version, { raw: '0.0.0+rev1', major: 0, minor: 0, patch: 0, prerelease: [], build: ['rev1'], version: '0.0.0' });
	});

	it('shows its images and its maker', async () => {
		const release = await sdk.models.release.getWithImageDetails(second.commit);
		assert.deepEqual(release.images.map((image) => image.service_name), ['web', 'worker']);
		assert.equal(release.user.username, (await sdk.auth.getUserInfo()).username);
		const [{ id }] = release.images;
		const image = await sdk.models.image.get(id);
		assert.equal(image.status, 'success');
		assert.match(image.content_hash, /^sha256:[0-9a-f]{64}$/);
		assert.match(image.is_stored_at__image_location, /\/v2\/[0-9a-f]{32}$/);
		assert.equal(typeof image.image_size, 'string');
		assert.equal('build_log' in image, false);
		const log = await sdk.models.image.getLogs(id);
		assert.ok(log === null || typeof log === 'string');
		await fails(stranger.models.image.get(id), 'BalenaImageNotFound');
		await fails(stranger.models.image.getLogs(id), 'BalenaImageNotFound');
		await fails(sdk.models.image.get(999999), 'BalenaImageNotFound');
	});

	it('keeps notes and known issues', async () => {
		const r = sdk.models.release;
		await r.setNote(second.commit, 'the good one');
		await r.setKnownIssueList(second.id, 'none');
		const read = async () => (({ note, known_issue_list }) => [note, known_issue_list])(await r.get(second.id));
		assert.deepEqual(await read(), ['the good one', 'none']);
		await r.setNote(second.id, null);
		await r.setKnownIssueList(second.commit, null);
		assert.deepEqual(await read(), [null, null]);
		await fails(stranger.models.release.setNote(second.commit, 'mine'), notFound);
	});

	it('is invalidated and made valid again', async () => {
		const target = () => sdk.models.application.getTargetReleaseHash(fleet.slug);
		assert.equal(await target(), second.commit);
		await sdk.models.release.setIsInvalidated(second.commit, true);
		assert.equal((await sdk.models.release.get(second.id)).is_invalidated, true);
		assert.equal(await target(), first.commit);
		await sdk.models.release.setIsInvalidated(second.id, false);
		assert.equal(await target(), second.commit);
		await fails(stranger.models.release.setIsInvalidated(second.id, true), notFound);
	});

	it('is a draft until it is final', async () => {
		const own = await newFleet();
		const d = await newRelease(own, { args: ['--draft'] });
		assert.equal(d.is_final, false);
		assert.equal(await sdk.models.application.getTargetReleaseHash(own.slug), undefined);
		await sdk.models.release.finalize(d.commit);
		const row = await sdk.models.release.get(d.id);
		assert.deepEqual([row.is_final, row.revision, row.raw_version], [true, 0, '0.0.0']);
		assert.notEqual(row.is_finalized_at__date, null);
		assert.equal(await sdk.models.application.getTargetReleaseHash(own.slug), d.commit);
		await fails(
			sdk.pine.patch({ resource: 'release', id: d.id, body: { is_final: false } }),
			/Finalized releases cannot be converted to draft\./,
		);
		await fails(stranger.models.release.finalize(d.id), notFound);
	});

	it('has a semantic version', async () => {
		await sdk.pine.patch({ resource: 'release', id: draft.id, body: { semver: '1.2.3-rc.1' } });
		const row = await sdk.models.release.get(draft.id);
		assert.deepEqual(
			[row.semver_major, row.semver_minor, row.semver_patch, row.semver_prerelease, row.semver],
			[1, 2, 3, 'rc.1', '1.2.3-rc.1'],
		);
		assert.match(row.raw_version, /^1\.2\.3-rc\.1\.\d{13}$/);
		await fails(sdk.pine.patch({ resource: 'release', id: draft.id, body: { semver: 'one' } }), /Invalid semver format/);
	});

	it('is not deleted while it is wanted', async () => {
		await fails(sdk.pine.delete({ resource: 'release', id: second.id }), /Unable to delete release .* because it is the fleet's target release\./);
		await sdk.pine.delete({ resource: 'release', id: draft.id });
		await fails(sdk.models.release.get(draft.id), notFound);
	});
});

describe('models.release.createFromUrl', () => {
	let site, address, asked = 0;
	before(async () => {
		const dir = await mkdtemp(path.join(tmpdir(), 'balena-sdk-archive-'));
		await mkdir(path.join(dir, 'project-1.0'));
		await writeFile(path.join(dir, 'project-1.0', 'Dockerfile'), 'FROM base/busybox\nCMD ["sleep", "1000"]\n');
		for (const [name, from, what] of [['nested', dir, 'project-1.0'], ['flat', path.join(dir, 'project-1.0'), 'Dockerfile']]) {
			await run('tar', ['-czf', path.join(dir, `${name}.tar.gz`), '-C', from, what]);
		}
		site = createServer(async (req, res) => {
			asked++;
			try {
				res.end(await readFile(path.join(dir, path.basename(req.url))));
			} catch {
				res.writeHead(404).end();
			}
		});
		site.listen(0, '127.0.0.1');
		await once(site, 'listening');
		address = `http://127.0.0.1:${site.address().port}`; // one that the server was told to fetch from
	});
	after(() => site.close());

	it('builds what an address has', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		for (const options of [{ url: `${address}/nested.tar.gz` }, { url: `${address}/flat.tar.gz`, shouldFlatten: false }]) {
			const id = await sdk.models.release.createFromUrl(fleet.slug, options);
			let release;
			do {
				await wait(200);
				release = await sdk.models.release.get(id, { $select: ['status', 'build_log'] });
			} while (release.status === 'running');
			assert.equal(release.status, 'success', release.build_log);
		}
	});

	it('says what is wrong, and fetches nothing for strangers', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const create = (url) => sdk.models.release.createFromUrl(fleet.id, { url });
		await fails(create(`${address}/nothing.tar.gz`), /answered 404 Not Found/);
		await fails(create(`${address}/flat.tar.gz`), /"Dockerfile" at its top/);
		await fails(create('https://192.0.2.1/x.tar.gz'), /only public addresses over https/);
		await fails(create('nonsense'), /is not an address/);
		const before = asked;
		const stranger = await as('stranger');
		await fails(stranger.models.release.createFromUrl(fleet.slug, { url: `${address}/nested.tar.gz` }), 'BalenaApplicationNotFound');
		const [owner, app] = fleet.slug.split('/');
		await fails(stranger.request.send({
			method: 'POST', baseUrl: process.env.BUILDER, url: `/v3/buildFromUrl?owner=${owner}&app=${app}`, body: { url: `${address}/nested.tar.gz` },
		}), 'BalenaRequestError');
		assert.equal(asked, before);
	});
});

describe('models.release.tags', () => {
	it('sets, changes, lists and removes tags', async () => {
		const sdk = await as('admin');
		const fleet = await newFleet();
		const release = await newRelease(fleet);
		const { tags } = sdk.models.release;
		await tags.set(release.commit, 'ci', '1');
		await tags.set(release.id, 'ci', '2');
		assert.deepEqual((await tags.getAllByRelease(release.commit)).map((tag) => [tag.tag_key, tag.value]), [['ci', '2']]);
		assert.deepEqual((await tags.getAllByApplication(fleet.slug)).map((tag) => tag.release), [{ __id: release.id }]);
		await tags.remove(release.commit, 'ci');
		assert.deepEqual(await tags.getAllByRelease(release.id), []);
		const stranger = await as('stranger');
		await fails(stranger.models.release.tags.set(release.commit, 'mine', 'x'), notFound);
		await fails(stranger.models.release.tags.set(release.id, 'mine', 'x'), notFound);
	});
});

describe('models.release.asset', () => {
	let sdk, release, dir;
	before(async () => {
		sdk = await as('admin');
		release = await newRelease(await newFleet());
		dir = await mkdtemp(path.join(tmpdir(), 'balena-sdk-assets-'));
	});

	const file = async (name, bytes) => {
		const f = path.join(dir, name);
		await writeFile(f, bytes);
		return f;
	};
	const content = async (id) => {
		const stream = await sdk.models.release.asset.download(id);
		const chunks = [];
		for await (const chunk of stream) chunks.push(Buffer.from(chunk));
		return Buffer.concat(chunks);
	};

	it('uploads, reads, overwrites and deletes a small one', async () => {
		const { asset } = sdk.models.release;
		const key = 'notes/a b.txt';
		const created = await asset.upload({ release: release.id, asset_key: key, asset: await file('notes.txt', 'one') });
		const row = await asset.get({ release: release.commit, asset_key: key });
		assert.equal(row.id, created.id);
		assert.deepEqual([row.asset.filename, Number(row.asset.size), row.asset.content_type], ['notes.txt', 3, 'text/plain']);
		assert.equal((await content(row.id)).toString(), 'one');
		assert.equal((await content({ release: release.id, asset_key: key })).toString(), 'one');
		const anonymous = await fetch(row.asset.href);
		assert.equal(await anonymous.text(), 'one', 'the address needs no token');

		await fails(asset.upload({ release: release.id, asset_key: key, asset: await file('again.txt', 'two') }), /already exists/);
		await asset.upload({ release: release.id, asset_key: key, asset: await file('again.txt', 'two') }, { overwrite: true });
		assert.equal((await content(row.id)).toString(), 'two');
		assert.deepEqual((await asset.getAllByRelease(release.commit)).map((a) => [a.id, a.asset_key]), [[row.id, key]]);

		const stranger = await as('stranger');
		await fails(stranger.models.release.asset.get(row.id), /Release asset not found/);
		await fails(stranger.models.release.asset.getAllByRelease(release.id), notFound);
		await assert.rejects(stranger.models.release.asset.upload({ release: release.id, asset_key: 'mine', asset: await file('m', 'm') }));

		await asset.remove({ release: release.id, asset_key: key });
		await fails(asset.get(row.id), /Release asset not found/);
		assert.equal((await fetch(row.asset.href)).ok, false, 'the address is dead with the asset');
	});

	it('uploads a large one in parts', async () => {
		const { asset } = sdk.models.release;
		const bytes = randomBytes(12 * 1024 * 1024 + 17);
		const progress = [];
		const created = await asset.upload(
			{ release: release.id, asset_key: 'large', asset: await file('large.bin', bytes) },
			{ onUploadProgress: ({ total, uploaded }) => { progress.push([total, uploaded]); } },
		);
		assert.deepEqual(progress.at(-1), [bytes.length, bytes.length]);
		assert.equal(Number((await asset.get(created.id)).asset.size), bytes.length);
		assert.ok((await content(created.id)).equals(bytes));
		await asset.remove(created.id);
	});

	it('takes ten of a release, no more', async () => {
		const { asset } = sdk.models.release;
		const full = await newRelease(await newFleet());
		const small = await file('small', 's');
		for (let i = 0; i < 10; i++) await asset.upload({ release: full.id, asset_key: `asset-${i}`, asset: small });
		await fails(asset.upload({ release: full.id, asset_key: 'asset-10', asset: small }), 'BalenaRequestError');
		assert.equal((await asset.getAllByRelease(full.id)).length, 10);
	});
});
