/** Sparks: stars of coarse pixels that glow. */

/** Across a star, cell by cell. */
const ROWS = [1, 1, 3, 7, 3, 1, 1];

/**
 * @param {import("./scene.js").Art} art
 * @param {{x: number, y: number, points: number, age: number}} spark
 * @param {number} now milliseconds
 */
export function drawSpark(art, { x, y, points, age }, now) {
  const big = points > 1;
  const grown = Math.min(1, age / 0.25);
  const beat = art.calm ? 0 : Math.sin(now / 260 + x);
  const size = (big ? 1.35 : 1) * grown;
  const glow = art.image(`glow ${big}`, () => glowImage(art.palette, big));
  const r = (big ? 62 : 46) * size * (1 + beat * 0.06);
  art.pen.drawImage(glow, x - r, y - r, 2 * r, 2 * r);
  const star = art.image(`star ${big}`, () => starImage(art.palette, big));
  const half = 22 * size;
  art.pen.drawImage(star, x - half, y - half + beat * 2.5, 2 * half, 2 * half);
}

function glowImage(palette, big) {
  const image = square(96);
  const pen = image.getContext("2d");
  const light = pen.createRadialGradient(48, 48, 4, 48, 48, 48);
  const [r, g, b] = big ? palette.goldGlow : palette.glow;
  light.addColorStop(0, `rgb(${r} ${g} ${b} / 50%)`);
  light.addColorStop(1, `rgb(${r} ${g} ${b} / 0%)`);
  pen.fillStyle = light;
  pen.fillRect(0, 0, 96, 96);
  return image;
}

function starImage(palette, big) {
  const image = square(88);
  const pen = image.getContext("2d");
  const draw = (colour, grow) => {
    pen.fillStyle = colour;
    ROWS.forEach((width, row) => {
      pen.fillRect(44 - width * 4 - grow, 16 + row * 8 - grow, width * 8 + 2 * grow, 8 + 2 * grow);
    });
  };
  draw(palette.sparkEdge, 4);
  draw(big ? palette.gold : palette.spark, 0);
  pen.fillStyle = palette.sparkCore;
  pen.fillRect(40, 32, 8, 24);
  pen.fillRect(32, 40, 24, 8);
  return image;
}

function square(side) {
  const image = document.createElement("canvas");
  image.width = image.height = side;
  return image;
}
