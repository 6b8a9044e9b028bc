// Uploads, shortcuts and focus. Every page also works without it, as plain forms.
// A module: its names are its own, and none replaces one of the window, such as print.

const find = (id) => document.getElementById(id);
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Says something to everyone, also to those who hear the page. */
function say(text) {
  const status = find("status");
  if (status) status.textContent = text;
}

document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  if (find("upload")) new Uploads(find("upload"));
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

/** Prints when all pictures are there. */
async function printPage() {
  const pictures = [...document.images];
  for (const picture of pictures) picture.loading = "eager";
  await Promise.allSettled(pictures.map((picture) => picture.decode()));
  window.print();
}

// ---------------------------------------------------------------- uploads

const TOGETHER = 8; // files of one request
const MOST_BYTES = 16e6; // of one request, if it has several files
const TRIES = 6; // of one request, while the server is busy

class Uploads {
  constructor(form) {
    this.form = form;
    this.waiting = [];
    this.running = false;
    this.done = this.total = this.referred = this.unreadable = 0;
    this.shown = Date.now();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.add([...find("files").files]);
      form.reset();
    });
    find("files").addEventListener("change", () => form.requestSubmit());
    form.querySelector("button").hidden = true;
    this.acceptDrops();
    window.addEventListener("beforeunload", (event) => {
      if (this.done < this.total) event.preventDefault();
    });
  }

  acceptDrops() {
    const over = (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      this.form.classList.add("over");
    };
    // Anywhere on the page: a file dropped beside the zone would replace the page.
    document.addEventListener("dragover", over);
    document.addEventListener("dragenter", over);
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) this.form.classList.remove("over");
    });
    document.addEventListener("drop", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      this.form.classList.remove("over");
      this.add([...event.dataTransfer.files]);
    });
  }

  add(files) {
    if (!files.length) return;
    if (this.done === this.total) this.done = this.total = this.referred = this.unreadable = 0;
    this.total += files.length;
    this.waiting.push(...files);
    find("progress").hidden = false;
    this.tell();
    if (!this.running) this.work();
  }

  /** Sends everything, one request after the other: images keep the order of their files. */
  async work() {
    this.running = true;
    while (this.waiting.length) {
      await this.deliver(this.take());
      if (Date.now() - this.shown > 4000) this.show();
    }
    this.running = false;
    this.show();
  }

  /** The next files of one request. */
  take() {
    const files = [this.waiting.shift()];
    let size = files[0].size;
    while (files.length < TOGETHER && this.waiting.length) {
      size += this.waiting[0].size;
      if (size > MOST_BYTES) break;
      files.push(this.waiting.shift());
    }
    return files;
  }

  async deliver(files) {
    const why = await this.send(files);
    if (why && files.length > 1) { // which of them?
      for (const file of files) await this.deliver([file]);
      return;
    }
    if (why) this.fail(files[0], why);
    this.done += files.length;
    this.tell();
  }

  /** Sends files; returns why that failed, or nothing. */
  async send(files) {
    const most = Number(this.form.dataset.most);
    if (files.some((file) => file.size > most * 1e6)) return `larger than ${most} MB`;
    for (let attempt = 1; ; attempt += 1) {
      const body = new FormData();
      for (const file of files) body.append("images", file, file.name);
      let answer;
      try {
        answer = await fetch(this.form.action, {
          method: "POST", body, credentials: "same-origin",
          headers: { Accept: "application/json", "X-CSRF-Token": this.form.elements.csrf.value },
        });
      } catch {
        return "the server cannot be reached";
      }
      const said = await answer.json().catch(() => ({}));
      if (answer.ok) {
        for (const image of said.images ?? []) {
          this.referred += image.refer;
          this.unreadable += Boolean(image.error);
        }
        return "";
      }
      if (![429, 503].includes(answer.status) || attempt === TRIES) {
        return said.detail || `the server refused it (${answer.status})`;
      }
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await wait(Math.min(seconds, 60));
    }
  }

  fail(file, why) {
    const row = document.createElement("li");
    const text = document.createElement("span");
    text.textContent = `${file.name}: ${why}`;
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Try again";
    again.setAttribute("aria-label", `Try again: ${file.name}`);
    again.addEventListener("click", () => {
      find("files").focus();
      row.remove();
      this.add([file]);
    });
    row.append(text, again);
    find("failed").append(row);
  }

  tell() {
    find("bar").max = this.total;
    find("bar").value = this.done;
    const failed = find("failed").children.length;
    let text = `${this.done} of ${this.total} uploaded`;
    if (this.done === this.total) {
      text = `Done: ${this.total - failed} of ${this.total} uploaded, ${this.referred} to review`;
      if (this.unreadable) text += `, ${this.unreadable} cannot be read as images`;
      if (failed) text += `, ${failed} failed`;
    }
    say(`${text}.`);
  }

  /** Shows what has arrived. */
  show() {
    this.shown = Date.now();
    htmx.ajax("GET", location.pathname + location.search, { target: "#images" });
    renewSign();
  }
}

/** Renews the form to sign: it names the version of the case that the person sees. */
async function renewSign() {
  const part = find("signatures");
  if (!part || part.contains(document.activeElement)) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const renewed = page.getElementById("signatures");
  if (renewed && !part.contains(document.activeElement)) part.replaceWith(renewed);
}

// ---------------------------------------------------------------- one image

function useReview(form) {
  const remark = find("remark");
  const check = () => {
    const chosen = form.elements.finding.value;
    remark.required = Boolean(chosen) && chosen !== form.dataset.answer;
  };
  form.addEventListener("change", check);
  check();
  form.addEventListener("submit", () => {
    // A second press must not send it twice.
    setTimeout(() => { form.querySelector("button.main").disabled = true; });
  });
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
  const say_ = part?.querySelector?.("[data-say]");
  if (say_ && asked?.id) say_.textContent = say_.dataset.say;
  if (asked?.dataset?.focus) find(asked.dataset.focus)?.focus();
  else if (asked?.id && document.activeElement === document.body) find(asked.id)?.focus();
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
