// Runs every test of the real balena SDK against a server, in one process, and writes down which of the SDK's functions were
// called and what came of it. internal/fleettest/e2e starts it; see world.mjs for what it wants in the environment.
import './anonymous.mjs';
import './account.mjs';
import './people.mjs';
import './fleet.mjs';
import './device.mjs';
import './actions.mjs';
import './release.mjs';
import './pine.mjs';
import './platform.mjs';
import './coverage.mjs';
