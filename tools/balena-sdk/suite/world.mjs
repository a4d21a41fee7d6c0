// The world of the tests: who they are, what they start from, and what they note about each call of the SDK.
//
// From the environment: API and BUILDER, URLs; USERS, a JSON object name → {email, password} with "admin", "member" (of the
// administrator's organization, once invited), "stranger" (of nobody's), and "careful" and "wary", who get second factors; IMAGE, a file with an image as docker save makes it;
// REPORT, the file to write the coverage to. roadstead is on PATH and logged in as admin.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import balenaSdk from 'balena-sdk';

export const { errors } = balenaSdk;
export const apiUrl = process.env.API;
export const users = JSON.parse(process.env.USERS);
export const roadstead = promisify(execFile);

// offered is every function that the SDK has; calls counts, for each, how the calls of these tests ended.
export const offered = new Set();
export const calls = new Map();

// refused is what the tests prove to be refused in the right way, each with the reason.
export const refused = new Map();

const recorded = ['auth', 'models', 'logs', 'settings'];

/** record wraps each function of a part of the SDK so that its outcome is noted under its name. */
function record(object, prefix) {
	const wrapped = {};
	for (const key of Object.keys(object)) {
		const name = `${prefix}.${key}`;
		const value = object[key];
		if (typeof value === 'function') {
			if (!key.startsWith('_')) offered.add(name); // the others are the SDK's own
			wrapped[key] = (...args) => {
				let result;
				try {
					result = value.apply(object, args);
				} catch (err) {
					note(name, 'rejected');
					throw err;
				}
				if (typeof result?.then !== 'function') {
					note(name, 'resolved');
					return result;
				}
				return result.then(
					(v) => (note(name, 'resolved'), v),
					(err) => {
						note(name, 'rejected');
						throw err;
					},
				);
			};
		} else if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
			wrapped[key] = record(value, name);
		} else {
			wrapped[key] = value;
		}
	}
	return wrapped;
}

function note(name, outcome) {
	const call = calls.get(name) ?? { resolved: 0, rejected: 0 };
	call[outcome]++;
	calls.set(name, call);
}

/** newSdk is an SDK of its own, with a session that no other shares. */
export async function newSdk() {
	const sdk = balenaSdk.getSdk({
		apiUrl,
		builderUrl: process.env.BUILDER,
		dataDirectory: await mkdtemp(path.join(tmpdir(), 'balena-sdk-')),
		retryRateLimitedRequests: true,
	});
	const wrapped = { pine: sdk.pine, request: sdk.request };
	for (const part of recorded) wrapped[part] = record(sdk[part], part);
	return wrapped;
}

const sessions = new Map();

/** as is the SDK of one of the users, logged in. */
export async function as(name) {
	if (!sessions.has(name)) {
		sessions.set(name, (async () => {
			const sdk = await newSdk();
			await sdk.auth.login(users[name]);
			return sdk;
		})());
	}
	return sessions.get(name);
}

/** unique makes a name that no other test has. */
export const unique = (prefix) => `${prefix}-${randomBytes(4).toString('hex')}`;

/** organization is the handle of the first user's first organization. */
export async function organization() {
	const sdk = await as('admin');
	const { username } = await sdk.auth.getUserInfo();
	return (await sdk.models.organization.get(username)).handle;
}

/** newFleet makes a fleet of the first user's. */
export async function newFleet(deviceType = 'generic-amd64') {
	const sdk = await as('admin');
	return sdk.models.application.create({ name: unique('sdk'), deviceType, organization: await organization() });
}

/** newDevice registers a device in a fleet. */
export async function newDevice(fleet) {
	const sdk = await as('admin');
	return sdk.models.device.register(fleet.slug, sdk.models.device.generateUniqueKey());
}

/** newRelease releases an image in a fleet, as the services named, and gives back the release's row. */
export async function newRelease(fleet, { services = ['main'], args = [] } = {}) {
	const project = await mkdtemp(path.join(tmpdir(), 'balena-sdk-project-'));
	await mkdir(path.join(project, 'empty'));
	for (const service of services) {
		const image = path.join(project, `${service}.tar`);
		await copyFile(process.env.IMAGE, image);
		args = [...args, '--archive', `${service}=${image}`];
	}
	await roadstead('roadstead', ['deploy', fleet.slug, path.join(project, 'empty'), ...args]);
	const sdk = await as('admin');
	const [release] = await sdk.models.release.getAllByApplication(fleet.id, { $top: 1, $orderby: { id: 'desc' } });
	return release;
}

/** asDevice makes a request with a device's own key, as its supervisor would. */
export async function asDevice(device, method, url, body) {
	return fetch(apiUrl + url, {
		method,
		headers: { Authorization: `Bearer ${device.api_key}`, 'Content-Type': 'application/json' },
		body: body === undefined ? undefined : JSON.stringify(body),
	});
}

/** report is a device's report of its own state. */
export async function report(device, state) {
	const answer = await asDevice(device, 'PATCH', '/device/v3/state', { [device.uuid]: state });
	assert.equal(answer.status, 200, `report of the state: ${await answer.text()}`);
}

/** fails asserts that a call is refused with an error of that code of the SDK's, or whose text matches. */
export async function fails(promise, want) {
	const err = await promise.then(
		(value) => assert.fail(`expected an error, got ${JSON.stringify(value)}`),
		(e) => e,
	);
	if (want instanceof RegExp) assert.match(err.message, want);
	else assert.equal(err.code, want, `${err.code}: ${err.message}`);
	return err;
}

/** ids of rows, ascending. */
export const ids = (rows) => rows.map((row) => row.id).sort((a, b) => a - b);
