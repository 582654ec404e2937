// How a method is drawn, everywhere the same: hue, dashes and mark, none of which carries the difference alone.

import { colour } from "../shared/dom";
import type { Mark } from "./chart";

const DASHES: number[][] = [[], [7, 4], [2, 3], [9, 3, 2, 3], [12, 4], [4, 2], [1, 3], [14, 3, 3, 3]];
const SHAPES: Mark["shape"][] = ["circle", "square", "diamond"];

export interface Look {
  colour: string;
  dash: number[];
  shape: Mark["shape"];
}

export function look(index: number): Look {
  return { colour: colour(`--c${index % 8}`), dash: DASHES[index % 8]!, shape: SHAPES[index % 3]! };
}
