// A line over the last minute, on a canvas.

const SPAN = 60; // seconds that are shown
const GAP = 3; // seconds without a value that interrupt the line
const LEFT = 40; // pixels for the numbers
const BOTTOM = 18;
const LINES = 2; // of the grid above zero

export class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = []; // [seconds, value]
    this.limit = null; // a value that is drawn as a dashed line
  }

  add(value) {
    const now = performance.now() / 1000;
    this.points.push([now, value]);
    while (this.points[0][0] < now - SPAN) this.points.shift();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = window.devicePixelRatio;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(name);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `11px ${style.fontFamily}`;

    const now = performance.now() / 1000;
    const top = niceAbove(Math.max(this.limit ?? 0, ...this.points.map(([, value]) => value)));
    const x = (seconds) => LEFT + (width - LEFT - 1) * (1 - (now - seconds) / SPAN);
    const y = (value) => 6 + (height - BOTTOM - 6) * (1 - value / top);

    pen.strokeStyle = color("--line");
    pen.fillStyle = color("--faint");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let i = 0; i <= LINES; i++) {
      const value = (top * i) / LINES;
      line(pen, LEFT, y(value), width, y(value));
      pen.fillText(short(value), LEFT - 6, y(value));
    }
    pen.textBaseline = "alphabetic";
    pen.fillText("now", width - 1, height - 3);
    pen.textAlign = "left";
    pen.fillText(`${SPAN} s ago`, LEFT, height - 3);

    if (this.limit !== null) {
      pen.strokeStyle = pen.fillStyle = color("--limit");
      pen.setLineDash([5, 4]);
      line(pen, LEFT, y(this.limit), width, y(this.limit));
      pen.setLineDash([]);
      pen.fillText("threshold", LEFT + 4, y(this.limit) + (y(this.limit) < 24 ? 13 : -4));
    }

    pen.strokeStyle = color("--plot");
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    pen.beginPath();
    this.points.forEach(([seconds, value], i) => {
      const joined = i > 0 && seconds - this.points[i - 1][0] < GAP;
      pen[joined ? "lineTo" : "moveTo"](Math.max(LEFT, x(seconds)), y(value));
    });
    pen.stroke();
  }
}

// The next round number above `value`.
function niceAbove(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.6, 2, 3, 4, 6, 8, 10].find((step) => step * power >= value * 1.0001) * power;
}

// Three digits that matter.
export function short(value) {
  return String(Number(value.toPrecision(3)));
}

function line(pen, fromX, fromY, toX, toY) {
  pen.beginPath();
  pen.moveTo(fromX, Math.round(fromY) + 0.5);
  pen.lineTo(toX, Math.round(toY) + 0.5);
  pen.stroke();
}
