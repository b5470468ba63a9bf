/** Keyboard, touch and mouse as one thing: where the player wants to go, and dashes. */

/** Arrows and WASD, by the key's place on the keyboard. */
const KEYS = {
  ArrowUp: [0, -1],
  KeyW: [0, -1],
  ArrowDown: [0, 1],
  KeyS: [0, 1],
  ArrowLeft: [-1, 0],
  KeyA: [-1, 0],
  ArrowRight: [1, 0],
  KeyD: [1, 0],
};
/** Pixels: the stick's travel, and what is not meant. */
const REACH = 44;
const DEAD = 7;
/** A tap: so short, in milliseconds. */
const TAP = 220;

export class Controls {
  /** Of a touch, in pixels of the canvas. @type {{x: number, y: number, dx: number, dy: number}|null} */
  stick = null;
  #canvas;
  #onDash;
  /** @type {Set<string>} */
  #held = new Set();
  /** Where a mouse is held down, in pixels of the canvas. */
  #goal = null;
  #pointer = null;
  #pressedAt = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} onDash
   */
  constructor(canvas, onDash) {
    this.#canvas = canvas;
    this.#onDash = onDash;
    // Wherever the focus is, but where keys have a meaning of their own.
    addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("keyup", (event) => this.#held.delete(event.code));
    addEventListener("blur", () => this.release());
    canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, (event) => this.#onUp(event));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** Let go of everything. */
  release() {
    this.#held.clear();
    [this.stick, this.#goal, this.#pointer] = [null, null, null];
  }

  /**
   * @param {(x: number, y: number) => {x: number, y: number}} toUnits
   * @param {{x: number, y: number}} body from where a mouse shows the way
   * @returns {{x: number, y: number}} of length 1 at most
   */
  aim(toUnits, body) {
    let [x, y] = [0, 0];
    for (const code of this.#held) {
      x += KEYS[code][0];
      y += KEYS[code][1];
    }
    if (!x && !y && this.stick) [x, y] = [this.stick.dx, this.stick.dy];
    if (!x && !y && this.#goal) {
      const goal = toUnits(this.#goal.x, this.#goal.y);
      [x, y] = [(goal.x - body.x) / 60, (goal.y - body.y) / 60];
      if (Math.hypot(x, y) < 0.2) return { x: 0, y: 0 };
    }
    const length = Math.max(1, Math.hypot(x, y));
    return { x: x / length, y: y / length };
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.#canvas.clientWidth) return;
    if (event.target.closest?.("input, [role='log']")) return;
    if (event.code === "Space") {
      if (event.target.closest?.("button, summary")) return;
      event.preventDefault();
      if (!event.repeat) this.#onDash();
    } else if (event.code in KEYS) {
      event.preventDefault();
      this.#held.add(event.code);
    }
  }

  #onDown(event) {
    this.#canvas.focus({ preventScroll: true });
    if (this.#pointer !== null) {
      // A second finger.
      this.#onDash();
      return;
    }
    event.preventDefault();
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    const now = event.timeStamp;
    if (event.pointerType === "mouse") {
      if (event.button === 2) this.#onDash();
      else this.#goal = this.#place(event);
    } else {
      if (now - this.#pressedAt < TAP * 1.5) this.#onDash();
      this.stick = { ...this.#place(event), dx: 0, dy: 0 };
    }
    this.#pressedAt = now;
  }

  #onMove(event) {
    if (event.pointerId !== this.#pointer) return;
    const place = this.#place(event);
    if (this.#goal) this.#goal = place;
    if (!this.stick) return;
    const [dx, dy] = [place.x - this.stick.x, place.y - this.stick.y];
    const far = Math.hypot(dx, dy);
    const strength = far < DEAD ? 0 : Math.min(1, far / REACH) / far;
    [this.stick.dx, this.stick.dy] = [dx * strength, dy * strength];
    // The stick follows a thumb that wanders off.
    if (far > REACH * 1.6) {
      this.stick.x = place.x - (dx / far) * REACH * 1.6;
      this.stick.y = place.y - (dy / far) * REACH * 1.6;
    }
  }

  #onUp(event) {
    if (event.pointerId !== this.#pointer) return;
    [this.stick, this.#goal, this.#pointer] = [null, null, null];
  }

  #place(event) {
    const { left, top } = this.#canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }
}
