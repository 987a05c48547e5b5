/**
 * What is drawn over a picture: the part outside of a crop in shade, and how much each region has in common. What the
 * encoder was not given, because it looks at the middle of pictures only, stays bare.
 *
 * The canvas lies on the picture, has its proportions and the same `object-fit`, so both are cut or framed alike.
 */

const SIDE = 160;
// From dark violet to pale yellow: lightness rises all the way, so it reads in grey and to colour-blind eyes too.
const STOPS = [
  [38, 12, 81],
  [120, 28, 109],
  [203, 65, 73],
  [249, 142, 9],
  [252, 255, 164],
];
const SHADE = "rgb(10 14 15 / 62%)";
const WHOLE = { x: 0, y: 0, width: 1, height: 1 };

/** Lay a canvas over an <img>; draw with `paint`. */
export function overlay(image) {
  const canvas = document.createElement("canvas");
  canvas.className = "overlay";
  canvas.ariaHidden = "true";
  image.after(canvas);
  return canvas;
}

/**
 * Draw a crop and a grid of values in 0..1 (either may be null) once the picture's proportions are known. `box`: what of
 * the whole picture the grid covers; it reaches beyond the picture, or the crop, where that was framed.
 */
export async function paint(canvas, image, { crop = null, grid = null, box = WHOLE }) {
  try {
    await image.decode();
  } catch {
    return; // no picture, nothing to draw on
  }
  const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  const place = ({ x, y, width, height }) => [
    x * canvas.width, y * canvas.height, width * canvas.width, height * canvas.height,
  ];
  const inside = place(crop ?? WHOLE);
  if (crop) {
    context.fillStyle = SHADE;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.clearRect(...inside);
  }
  if (!grid?.length) return;
  context.beginPath();
  context.rect(...inside);
  context.clip();
  const [left, top, across, down] = place(box);
  context.drawImage(heat(grid, across, down), left, top, across, down);
}

/** A grid as a coloured picture of about that size, its values interpolated between the middles of the cells. */
function heat(grid, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (let row = 0; row < canvas.height; row += 1) {
    for (let column = 0; column < canvas.width; column += 1) {
      const value = valueAt(grid, (row + 0.5) / canvas.height, (column + 0.5) / canvas.width);
      pixels.data.set([...colour(value), 70 + 130 * value], 4 * (row * canvas.width + column));
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The value at a place given in shares of the height and the width. */
function valueAt(grid, down, across) {
  const [top, bottom, below] = neighbours(down * grid.length - 0.5, grid.length);
  const [left, right, beside] = neighbours(across * grid[0].length - 0.5, grid[0].length);
  const upper = grid[top][left] * (1 - beside) + grid[top][right] * beside;
  const lower = grid[bottom][left] * (1 - beside) + grid[bottom][right] * beside;
  return upper * (1 - below) + lower * below;
}

function neighbours(place, number) {
  const inside = Math.min(Math.max(place, 0), number - 1);
  const first = Math.floor(inside);
  return [first, Math.min(first + 1, number - 1), inside - first];
}

function colour(value) {
  const [first, second, between] = neighbours(value * (STOPS.length - 1), STOPS.length);
  return STOPS[first].map((channel, number) => channel * (1 - between) + STOPS[second][number] * between);
}
