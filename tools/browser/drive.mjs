// Drives Chromium for a test: one JSON command a line comes in, one JSON answer a line goes out. Every answer says where the page is
// and what a person reads on it.
import { chromium } from "playwright-core";
import { createInterface } from "node:readline";

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
let context, page, wrong;

async function fresh() {
  await context?.close();
  // The server's root certificate is the test's own; that it is the right one, the command lines check.
  context = await browser.newContext({ ignoreHTTPSErrors: true });
  wrong = [];
  page = await tab();
}

async function tab() {
  const made = await context.newPage();
  made.setDefaultTimeout(15000);
  made.on("pageerror", (e) => wrong.push(String(e)));
  made.on("console", (m) => { if (m.type() === "error") wrong.push(m.text()); });
  return made;
}

// visit goes to a page. Addresses of this machine come and go with other tests, and Chromium gives up what it is loading then.
async function visit(url) {
  for (let left = 5; ; left--) {
    try {
      return await page.goto(url);
    } catch (e) {
      // Its page of errors may come late, and be taken for another navigation.
      if (left === 0 || !/ERR_NETWORK_CHANGED|another navigation to "chrome-error:/.test(String(e))) throw e;
    }
  }
}

const commands = {
  fresh,
  goto: ({ url }) => visit(url),
  fill: ({ at, value }) => page.fill(at, value),
  click: ({ at }) => page.click(at),
  type: ({ text }) => page.keyboard.type(text),
  select: ({ at, value }) => page.selectOption(at, value),
  another: async () => { await page.close(); page = await tab(); }, // the tab is closed, and another one is there
  state: () => {},
  passkey: async () => { // an authenticator of the browser's own, that always says yes
    const cdp = await context.newCDPSession(page);
    await cdp.send("WebAuthn.enable");
    await cdp.send("WebAuthn.addVirtualAuthenticator", { options: {
      protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true,
      automaticPresenceSimulation: true } });
  },
};

await fresh();
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const answer = {};
  try {
    await commands[command.do](command);
  } catch (e) {
    answer.error = String(e);
  }
  try {
    answer.url = page.url();
    answer.text = await page.innerText("body", { timeout: 3000 });
    answer.cookies = await context.cookies();
  } catch {
    answer.text = answer.text ?? ""; // between two pages
  }
  answer.wrong = wrong;
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
