// Uploads, shortcuts and focus. Every page also works without it, as plain forms.
// A module: its names are its own, and none replaces one of the window, such as print.

import { Uploads } from "./upload.js";

const find = (id) => document.getElementById(id);

/** Says something to everyone, also to those who hear the page. */
function say(text) {
  const status = find("status");
  if (status) status.textContent = text;
}

document.addEventListener("DOMContentLoaded", () => {
  forgetRecorded();
  document.querySelector(".logout")?.addEventListener("submit", () => sessionStorage.clear());
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  if (find("upload")) new Uploads(find("upload"), say, showImages);
  if (find("help")) useShortcuts(find("help"));
  if (find("review-form")) useReview(find("review-form"));
  find("print")?.addEventListener("click", printPage);
  const error = document.querySelector(".error[role=alert]");
  if (error) { // seen, heard, and where Tab goes on
    error.tabIndex = -1;
    error.focus({ preventScroll: true });
    error.scrollIntoView({ block: "center" });
  }
});

// A second press must not send a form twice.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  const buttons = [...form.querySelectorAll("button")];
  const disable = (disabled) => { for (const button of buttons) button.disabled = disabled; };
  setTimeout(disable, 0, true); // after the browser has looked at them
  setTimeout(disable, 10000, false); // if no page has come
});

/** Prints when all pictures are there. */
async function printPage() {
  const pictures = [...document.images];
  for (const picture of pictures) picture.loading = "eager";
  await Promise.allSettled(pictures.map((picture) => picture.decode()));
  window.print();
}

// ---------------------------------------------------------------- a case

/** Address of the images that are shown: the page's own may be that of a form that was refused. */
const casePath = () => find("images-title").dataset.part;

/** Shows the images that have arrived. */
function showImages() {
  htmx.ajax("GET", casePath(), { source: "#images", target: "#images" });
  renewSign();
}

/** Renews the form to sign: it names the version of the case that the person sees. */
async function renewSign() {
  const part = find("signatures");
  if (!part || part.contains(document.activeElement)) return;
  const answer = await fetch(casePath(), { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const renewed = page.getElementById("signatures");
  if (renewed && !part.contains(document.activeElement)) part.replaceWith(renewed);
}

// ---------------------------------------------------------------- one image

const REVIEW = "review ";
const SENT = "sent review";

function useReview(form) {
  const remark = find("remark");
  const check = () => {
    const chosen = form.elements.finding.value;
    remark.required = Boolean(chosen) && chosen !== form.dataset.answer;
  };
  keepReview(form, remark);
  form.addEventListener("change", check);
  check();
}

/** Keeps what is typed until it is recorded, also while somebody has to log in again. */
function keepReview(form, remark) {
  const key = `${REVIEW}${document.querySelector(".who")?.textContent} ${form.dataset.page}`;
  const kept = JSON.parse(sessionStorage.getItem(key) ?? "{}");
  if (kept.remark && !remark.value) {
    remark.value = kept.remark;
    for (const choice of form.elements.finding) choice.checked ||= choice.value === kept.finding;
  }
  const keep = () => sessionStorage.setItem(key, JSON.stringify({
    finding: form.elements.finding.value, remark: remark.value,
  }));
  form.addEventListener("input", keep);
  form.addEventListener("submit", () => {
    keep();
    sessionStorage.setItem(SENT, JSON.stringify({ key, page: form.dataset.page }));
  });
}

/** Forgets a review that was recorded: that leads to another page than its own or the login. */
function forgetRecorded() {
  const sent = JSON.parse(sessionStorage.getItem(SENT) ?? "null");
  sessionStorage.removeItem(SENT);
  const pages = [sent?.page, `${sent?.page}/review`, "/login", "/account"];
  if (sent && !pages.includes(location.pathname)) sessionStorage.removeItem(sent.key);
}

function useShortcuts(help) {
  const box = find("shortcuts");
  box.checked = localStorage.getItem("shortcuts") !== "off";
  box.addEventListener("change", () => localStorage.setItem("shortcuts", box.checked ? "on" : "off"));
  find("help-open").addEventListener("click", () => help.showModal());
  const links = {
    j: "next", ArrowRight: "next", k: "previous", ArrowLeft: "previous", u: "up",
    i: "view-image", e: "view-evidence", w: "view-cells",
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=radio]), textarea, select, [contenteditable]");
    // Arrow keys move among the choices of a radio group.
    const moving = event.key.startsWith("Arrow") && event.target.closest?.("input, .scroll");
    if (!box.checked || help.open || typing || moving || event.ctrlKey || event.metaKey || event.altKey) return;
    const choice = document.querySelector(`#review-form [data-key="${CSS.escape(event.key)}"]`);
    if (event.key === "?") help.showModal();
    else if (event.key === "r" && find("remark")) find("remark").focus();
    else if (choice) {
      choice.click();
      choice.focus();
    } else if (find(links[event.key])) find(links[event.key]).click();
    else return;
    event.preventDefault();
  });
}

// ---------------------------------------------------------------- htmx

document.addEventListener("htmx:afterSettle", (event) => {
  const part = event.detail.target;
  const asked = event.detail.requestConfig?.elt;
  if (asked?.id === "images") return; // more have arrived: nobody asked
  const say_ = part?.querySelector?.("[data-say]");
  if (say_ && asked?.id) say_.textContent = say_.dataset.say;
  if (asked?.dataset?.focus) find(asked.dataset.focus)?.focus();
  else if (asked?.id && document.activeElement === document.body) find(asked.id)?.focus();
});

document.addEventListener("htmx:configRequest", (event) => {
  // It may have waited for another order of the images.
  if (event.detail.elt.id === "images") event.detail.path = casePath();
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) find("trouble")?.remove();
});

for (const kind of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(kind, (event) => {
    const status = event.detail.xhr?.status;
    const text = status ? `The server answered ${status}.` : "The server cannot be reached.";
    let place = find("trouble");
    if (!place) {
      place = document.createElement("p");
      place.id = "trouble";
      place.className = "error";
      place.setAttribute("role", "alert");
      find("content").prepend(place);
    }
    place.textContent = `${text} Try again.`;
  });
}
