// All that these pages do in the browser beyond forms: a letter's code is taken from behind the #, a session is handed to the command
// line that waits for it, and passkeys are asked for.
"use strict";

const field = document.querySelector("input.from-fragment");
if (field && location.hash.length > 1) {
  field.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}

const handover = document.getElementById("handover");
if (handover) handover.submit();

const passkey = document.getElementById("passkey");
if (passkey) ask(passkey);

async function ask(form) {
  const says = document.getElementById("passkey-says");
  try {
    const options = JSON.parse(form.dataset.options).publicKey;
    const made = form.dataset.do === "create"
      ? await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
      : await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
    form.elements.credential.value = JSON.stringify(made.toJSON());
    form.submit();
  } catch (e) {
    says.textContent = "There is no passkey: " + e.message;
  }
}
