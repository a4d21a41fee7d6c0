// A terminal in a device: what is typed goes over a WebSocket to the dashboard, and from there over SSH.
"use strict";

// xterm writes its rules into <style> elements, and colours into attributes, which the page's policy does not let be. Sheets and
// properties that a script sets are no text in the page, so they take their place.
const create = document.createElement.bind(document);
document.createElement = (name, ...more) => {
  if (name !== "style") return create(name, ...more);
  const sheet = new CSSStyleSheet(), made = create("template");
  document.adoptedStyleSheets.push(sheet);
  const rules = { set: (text) => sheet.replaceSync(text) };
  Object.defineProperties(made, { textContent: rules, innerText: rules, sheet: { value: sheet } });
  made.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => s !== sheet);
    Element.prototype.remove.call(made);
  };
  return made;
};
HTMLSpanElement.prototype.setAttribute = function (name, value) {
  if (name === "style") this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, name, value);
};

const choose = document.getElementById("choose");
const says = document.getElementById("says");
const screen = document.getElementById("screen");
const ender = document.getElementById("end");
const opener = document.getElementById("open");
let socket, term;

const say = (text) => { says.textContent = text; };

choose.addEventListener("submit", (e) => { e.preventDefault(); open(); });
ender.addEventListener("click", () => socket?.close());

function open() {
  if (socket) return;
  term?.dispose();
  term = new Terminal({ cursorBlink: true, scrollback: 5000, screenReaderMode: false });
  const fit = new FitAddon.FitAddon();
  term.loadAddon(fit);
  term.open(screen);
  fit.fit();
  const where = new URL(choose.dataset.socket, location.href);
  where.protocol = "wss:";
  where.search = new URLSearchParams({ service: choose.elements.service.value, cols: term.cols, rows: term.rows });
  const mine = socket = new WebSocket(where);
  socket.binaryType = "arraybuffer";
  opener.disabled = true;
  ender.disabled = false;
  say("Connecting…");

  const send = (what) => { if (mine.readyState === WebSocket.OPEN) mine.send(what); };
  const tell = (what) => send(JSON.stringify(what));
  const keys = new TextEncoder();
  const type = (bytes) => { for (let at = 0; at < bytes.length; at += 8192) send(bytes.subarray(at, at + 8192)); };
  term.onData((text) => type(keys.encode(text)));
  term.onBinary((text) => type(Uint8Array.from(text, (c) => c.charCodeAt(0))));
  term.onResize(({ cols, rows }) => tell({ cols, rows }));
  const look = new ResizeObserver(() => fit.fit());
  look.observe(screen);

  let last = "", opened = false;
  mine.onmessage = (m) => {
    if (typeof m.data !== "string") {
      const bytes = new Uint8Array(m.data);
      term.write(bytes, () => tell({ seen: bytes.length }));
      return;
    }
    const told = JSON.parse(m.data);
    if (told.open) {
      opened = true;
      say("Open.");
      term.focus();
    } else {
      last = told.end;
    }
  };
  mine.onclose = async () => {
    look.disconnect();
    socket = undefined;
    opener.disabled = false;
    ender.disabled = true;
    say(last || (opened ? "The connection has ended." : await reason(where)));
  };
}

// reason asks why there is no terminal, which a browser does not tell of a WebSocket.
async function reason(where) {
  where.protocol = "https:";
  try {
    return await (await fetch(where, { redirect: "error" })).text();
  } catch {
    return "There is no connection to the dashboard, or you are not signed in any more.";
  }
}
