// Every function that the SDK offers is either proven to work by a test above, proven to be refused as it should be, or absent
// for a reason. What the tests saw goes into the report, from which docs/compatibility.md is made.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { absent } from './absent.mjs';
import { as, calls, offered, refused } from './world.mjs';

describe('coverage', () => {
	it('leaves no function of the SDK unsaid', async () => {
		await as('admin');
		const functions = [];
		const problems = [];
		for (const name of [...offered].sort()) {
			const call = calls.get(name) ?? { resolved: 0, rejected: 0 };
			let state, why;
			if (absent.has(name)) {
				[state, why] = ['absent', absent.get(name)];
				if (call.resolved > 0) problems.push(`${name} is listed as absent, but works`);
			} else if (call.resolved > 0) {
				[state, why] = ['works', ''];
			} else if (refused.has(name)) {
				[state, why] = ['refused', refused.get(name)];
			} else {
				[state, why] = ['failing', 'no test has seen it work'];
				problems.push(`${name}: no test has seen it work`);
			}
			functions.push({ name, state, why });
		}
		for (const name of absent.keys()) if (!offered.has(name)) problems.push(`${name} is listed as absent, but the SDK does not offer it`);
		await writeFile(process.env.REPORT, JSON.stringify(functions, null, '\t'));
		assert.deepEqual(problems, []);
	});
});
