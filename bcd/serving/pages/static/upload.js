// Uploads of the images of a case, one request after the other. Each file has an id of its own, so
// that it can be sent again when an answer was lost, and what failed can be tried again.

const TOGETHER = 8; // files of one request
const MOST_BYTES = 16e6; // of one request, if it has several files
const TRIES = 6; // of one request, while the server is busy or cannot be reached
const BUSY = [429, 502, 503, 504];

const find = (id) => document.getElementById(id);
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Why nothing can be sent at the moment. */
class Stopped extends Error {}

/** A file of this page. */
class Item {
  constructor(file) {
    this.file = file;
    this.run = 0; // in which it has failed
    const random = crypto.getRandomValues(new Uint8Array(16));
    this.id = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
}

export class Uploads {
  /**
   * @param form The form without scripts.
   * @param say Says a text to everyone.
   * @param show Shows what has arrived.
   */
  constructor(form, say, show) {
    Object.assign(this, { form, say, show });
    this.waiting = [];
    this.running = false;
    this.stopped = ""; // why nothing more was sent
    this.run = 0;
    this.shown = Date.now();
    this.begin();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.add([...find("files").files].map((file) => new Item(file)));
      form.reset();
    });
    find("files").addEventListener("change", () => form.requestSubmit());
    find("again").addEventListener("click", () => this.again([...find("failed").children]));
    form.querySelector("button").hidden = true;
    this.acceptDrops();
    window.addEventListener("beforeunload", (event) => {
      if (this.done < this.total) event.preventDefault();
    });
  }

  /** Counts from 0: of what is sent from now on. */
  begin() {
    this.run += 1;
    this.done = this.total = this.failed = this.referred = this.unreadable = 0;
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
      this.drop(event.dataTransfer);
    });
  }

  drop(transfer) {
    const dropped = [...transfer.items].filter((item) => item.kind === "file");
    const files = [...transfer.files];
    const isFolder = (_, at) => dropped[at]?.webkitGetAsEntry?.()?.isDirectory;
    const folders = files.filter(isFolder);
    this.add(files.filter((file, at) => !isFolder(file, at)).map((file) => new Item(file)));
    for (const folder of folders) {
      this.list(folder.name, "is a folder: open it and drop the files in it");
    }
    if (folders.length && !this.running) this.say("Folders cannot be dropped, only files.");
  }

  add(items) {
    if (!items.length) return;
    this.stopped = "";
    if (this.done === this.total) this.begin();
    for (const item of items) {
      if (item.run === this.run) { // counted already
        this.done -= 1;
        this.failed -= 1;
      } else this.total += 1;
    }
    this.waiting.push(...items);
    find("progress").hidden = false;
    this.tell();
    if (!this.running) this.work();
  }

  /** Sends everything, one request after the other: images keep the order of their files. */
  async work() {
    this.running = true;
    while (this.waiting.length) {
      const items = this.take();
      try {
        await this.deliver(items);
      } catch (error) {
        if (!(error instanceof Stopped)) throw error;
        this.stopped = error.message;
        for (const item of [...error.items, ...this.waiting.splice(0)]) this.fail(item, error.message);
      }
      this.tell();
      if (Date.now() - this.shown > 4000) this.update();
    }
    this.running = false;
    this.update();
  }

  update() {
    if (this.stopped) return; // logged out, this would lead to the login and lose the list
    this.shown = Date.now();
    this.show();
  }

  /** The next files of one request. */
  take() {
    const items = [this.waiting.shift()];
    let size = items[0].file.size;
    while (items.length < TOGETHER && this.waiting.length) {
      size += this.waiting[0].file.size;
      if (size > MOST_BYTES) break;
      items.push(this.waiting.shift());
    }
    return items;
  }

  async deliver(items) {
    const left = [...items];
    try {
      const why = await this.send(items);
      if (!why) this.done += items.length;
      else if (items.length === 1) this.fail(items[0], why);
      else { // which of them?
        while (left.length) {
          await this.deliver([left[0]]);
          left.shift();
        }
      }
    } catch (error) {
      if (error instanceof Stopped) error.items = left;
      throw error;
    }
  }

  /** Sends files; returns why they were refused, or nothing. */
  async send(items) {
    const most = Number(this.form.dataset.most);
    if (items.some((item) => item.file.size > most * 1e6)) return `larger than ${most} MB`;
    let renewed = false;
    for (let attempt = 1; ; attempt += 1) {
      if (!(await this.readable(items))) {
        return "cannot be read any more: it was moved, changed or deleted, or is a folder";
      }
      const body = new FormData();
      for (const { file, id } of items) {
        body.append("images", file, file.name);
        body.append("upload", id);
      }
      let answer = null;
      let said = {};
      try {
        answer = await fetch(this.form.action, {
          method: "POST", body, credentials: "same-origin",
          headers: { Accept: "application/json", "X-CSRF-Token": this.form.elements.csrf.value },
        });
        const text = await answer.text(); // may break off
        try { said = JSON.parse(text); } catch { /* of a proxy */ }
      } catch {
        answer = null;
      }
      if (answer?.ok) {
        this.count(said.images ?? []);
        return "";
      }
      if (answer?.status === 401) {
        throw new Stopped("You were logged out. Log in in another tab, then Try again.");
      }
      if (answer?.status === 403 && !renewed) { // perhaps logged in again, in another tab
        renewed = true;
        if (await this.renewToken()) continue;
      }
      if (answer && (!BUSY.includes(answer.status) || attempt === TRIES)) {
        return said.detail || `the server refused it (${answer.status})`;
      }
      if (attempt === TRIES) throw new Stopped("The server cannot be reached.");
      if (!answer) this.say("The server cannot be reached. Trying again.");
      const seconds = Number(answer?.headers.get("Retry-After")) || 2 ** (attempt - 1);
      await wait(Math.min(seconds, 60));
    }
  }

  /** Whether all files are still there: else a request would fail as if the network were gone. */
  async readable(items) {
    const read = await Promise.allSettled(items.map(({ file }) => file.slice(0, 1).arrayBuffer()));
    return read.every(({ status }) => status === "fulfilled");
  }

  count(images) {
    find("trouble")?.remove();
    for (const image of images) {
      this.referred += image.refer;
      this.unreadable += Boolean(image.error);
    }
  }

  /** Takes the token of the session of now into the page; whether it is another one. */
  async renewToken() {
    try {
      const answer = await fetch(find("images-title").dataset.part, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const token = page.querySelector("#upload [name=csrf]")?.value;
      if (!token || token === this.form.elements.csrf.value) return false;
      for (const field of document.querySelectorAll("[name=csrf]")) field.value = token;
      document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRF-Token": token }));
      return true;
    } catch {
      return false;
    }
  }

  fail(item, why) {
    item.run = this.run;
    this.failed += 1;
    this.done += 1;
    this.list(item.file.name, why, item);
  }

  /** Lists what failed; a file, if there is one, can be tried again. */
  list(name, why, item = null) {
    find("progress").hidden = false;
    const row = document.createElement("li");
    const text = document.createElement("span");
    text.textContent = `${name}: ${why}`;
    row.append(text);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = item ? "Try again" : "Remove";
    button.setAttribute("aria-label", `${button.textContent}: ${name}`);
    button.addEventListener("click", () => this.again([row]));
    row.append(button);
    row.item = item;
    find("failed").append(row);
    this.offerAll();
  }

  /** Sends the files of these rows again. */
  again(rows) {
    find("files").focus();
    for (const row of rows) row.remove();
    this.offerAll();
    this.add(rows.map((row) => row.item).filter(Boolean));
  }

  offerAll() {
    find("again").hidden = [...find("failed").children].filter((row) => row.item).length < 2;
  }

  tell() {
    find("bar").max = this.total;
    find("bar").value = this.done;
    let text = `${this.done} of ${this.total} uploaded`;
    if (this.done === this.total) {
      text = `Done: ${this.total - this.failed} of ${this.total} uploaded, ${this.referred} to review`;
      if (this.unreadable) text += `, ${this.unreadable} cannot be read as images`;
      if (this.failed) text += `, ${this.failed} failed`;
    }
    this.say(this.stopped ? `${text}. ${this.stopped}` : `${text}.`);
  }
}
