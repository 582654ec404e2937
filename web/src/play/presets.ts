// Scenes that reproduce what the papers and the tutorial show. Each says in two sentences what to look at.

import type { Scene } from "./scene";

export interface Preset {
  id: string;
  title: string;
  text: string;
  source: string;
  scene: Partial<Scene>;
}

const four = (lr: number) => [
  { rule: "sgd", hyper: { lr } },
  { rule: "heavy_ball", hyper: { lr, momentum: 0.9 } },
  { rule: "rmsprop", hyper: { lr, alpha: 0.9 } },
  { rule: "adam", hyper: { lr } },
];

const KAISER = [
  { rule: "sgd", hyper: { lr: 1e-3 } },
  { rule: "adagrad", hyper: { lr: 1e-3 } },
  { rule: "rmsprop", hyper: { lr: 1e-3, alpha: 0.999 } },
  { rule: "adam", hyper: { lr: 1e-3 } },
];

export const PRESETS: Preset[] = [
  {
    id: "tutorial",
    title: "One rate for four methods",
    text: "All four start at one point with one learning rate: SGD bounces across the ravine and crawls along it, while RMSProp and Adam step alike along both axes, whatever the slope. Watch 1/(1 − βᵗ) inside Adam: it starts at 10 and 1000 and vanishes. (The tutorial does not print its formula; this is a ravine of condition number 190.)",
    source: "The tutorial, “Comparing Optimizers Side by Side”",
    scene: {
      landscape: "ellipse", params: { kappa: 190, angle: 0 }, start: [1.6, 1.8], steps: 600, methods: four(0.01), shared: true, method: 3, coordinate: 0,
      view: [[-2, 2], [-2, 2]], at: 150,
    },
  },
  {
    id: "theta-squared",
    title: "θ² from 5, rate 0.001",
    text: "Adam's steps have at most about the size of the rate, so 5 units take more than 5000 of them, far from the 817 that the tutorial prints. After 817 steps θ is still above 4.",
    source: "The tutorial, “Python Implementation”",
    scene: { landscape: "x^2", start: [5], steps: 12000, methods: [{ rule: "adam", hyper: { lr: 1e-3 } }, { rule: "sgd", hyper: { lr: 1e-3 } }], view: [[-1, 5.5]], at: 817, method: 0 },
  },
  {
    id: "line-fit",
    title: "Fitting a line",
    text: "The mean squared error of w x + b on five points of the line 2x + 1, a valley that lies across both axes. The tutorial's Adam at rate 0.01 is not there after 200 epochs.",
    source: "The tutorial, “Adam on Linear Regression”",
    scene: { landscape: "line_fit", start: [0, 0], steps: 2000, methods: [{ rule: "adam", hyper: { lr: 0.01 } }, { rule: "sgd", hyper: { lr: 0.01 } }, { rule: "adam", hyper: { lr: 0.1 } }], at: 200, method: 0, view: [[-1, 4], [-1, 4]] },
  },
  {
    id: "smooth-valley",
    title: "The smooth valley",
    text: "x² + 10⁻³y²: SGD falls to the floor and crawls, AdaGrad's steps die out on the way, RMSProp and Adam go for the minimum along both axes at once. Adam is first within 10⁻³ of it after 2474 steps from here; the paper prints 3113, which no start that we tried gives.",
    source: "A. Kaiser, Exploring the Dynamics of Adam, Sec. 6",
    scene: { landscape: "smooth_valley", start: [0.5, 0.9], steps: 5000, methods: KAISER, method: 3, coordinate: 0, view: [[-0.8, 0.8], [-0.3, 1.1]], at: 2474 },
  },
  {
    id: "sharp-valley",
    title: "The sharp valley",
    text: "|x| + 10⁻⁴|y|: the gradient does not shrink near the floor, so SGD oscillates across it and creeps 10⁻⁷ a step along it. RMSProp and Adam divide by the gradient's size and come down the floor as fast as the wall: Adam is within 10⁻³ after 900 steps.",
    source: "A. Kaiser, Exploring the Dynamics of Adam, Sec. 6",
    scene: { landscape: "sharp_valley", start: [0.5, 0.9], steps: 3000, methods: KAISER, method: 3, coordinate: 0, view: [[-0.7, 0.7], [-0.3, 1.1]], at: 900 },
  },
  {
    id: "burst",
    title: "The late burst",
    text: "Adam on a parabola, long after it has arrived: v forgets the first gradients as 0.999ᵗ until the step size passes the stability limit, near step 20,200. What follows is chaotic, and the last bit decides it.",
    source: "A. Kaiser, Sec. 6; the cause is ours",
    scene: { landscape: "x^2", start: [0.9], steps: 60000, methods: [{ rule: "adam", hyper: { lr: 1e-3 } }], view: [[-0.2, 1]], at: 21100, method: 0 },
  },
  {
    id: "saddle",
    title: "The saddle",
    text: "(y² − x²)/2 from a point near the ridge: SGD's distance from it grows exponentially and takes 4608 steps to reach 1, Adam 627, RMSProp 131. AdaGrad remembers the large first gradients and has not left after 40,000.",
    source: "A. Kaiser, Exploring the Dynamics of Adam, Sec. 5",
    scene: { landscape: "saddle", start: [0.01, 1], steps: 5000, methods: KAISER, method: 3, coordinate: 0, view: [[-1.2, 1.2], [-1.2, 1.2]], at: 627 },
  },
  {
    id: "flat",
    title: "Across the flat",
    text: "A slope that ends in an exactly flat plain: SGD stops at its edge, and momentum, ten times as fast, rolls on for 70 rates. Adam coasts eleven rates further, because m decays in ten steps and v in a thousand.",
    source: "A. Kaiser, Exploring the Dynamics of Adam, Sec. 4",
    scene: { landscape: "flat", start: [0.95], params: { slope: 1, edge: 1 }, steps: 250, methods: four(1e-3), shared: true, method: 3, view: [[0.94, 1.08]], at: 100 },
  },
  {
    id: "spread",
    title: "Spread decides the step",
    text: "With equal betas Adam's step is exactly 1/√(1 + γ²) of the rate, γ the spread of the gradients it remembers. The points ride on the theoretical curve while the gradient changes sign.",
    source: "D. Eigen, Gradient Spread as an Intuition for the Adam Optimizer, Fig. 3",
    scene: {
      landscape: "parabola", start: [1], steps: 2000, methods: [{ rule: "adam", hyper: { lr: 0.01, beta1: 0.9, beta2: 0.9, eps: 0 } }, { rule: "adam", hyper: { lr: 0.01, beta1: 0.99, beta2: 0.99, eps: 0 } }],
      view: [[-0.6, 1.2]], at: 180, method: 1,
    },
  },
  {
    id: "dissected",
    title: "Adam, taken apart",
    text: "The four recombinations on a noisy quadratic: with or without the sign, with or without shrinking by the variance. The data scatter about the minimum, and every method meets the same noise.",
    source: "L. Balles and P. Hennig, Dissecting Adam, Sec. 2 and 4",
    scene: {
      landscape: "ellipse", params: { kappa: 10, angle: 0 }, start: [1.8, 1.6], steps: 600, noise: "shift", sigma: 0.4, seed: 1,
      methods: [{ rule: "msgd", hyper: { lr: 0.05 } }, { rule: "msvag", hyper: { lr: 0.05 } }, { rule: "mssd", hyper: { lr: 0.02 } }, { rule: "adam_one_beta", hyper: { lr: 0.02 } }],
      view: [[-1, 2.2], [-1, 2.2]], at: 300, method: 1,
    },
  },
  {
    id: "rotated",
    title: "A turned valley",
    text: "A ravine turned by 45°: the sign follows the axes, not the ravine, and Adam's loss after 200 steps is 0.4. Turn the angle back to 0 and it is 4·10⁻⁶, while SGD and momentum hardly notice.",
    source: "L. Balles and P. Hennig, Dissecting Adam, Sec. 3",
    scene: { landscape: "ellipse", params: { kappa: 100, angle: 0.7853981633974483 }, start: [-1.5, 1], steps: 600, methods: [{ rule: "adam", hyper: { lr: 0.02 } }, { rule: "heavy_ball", hyper: { lr: 0.01 } }, { rule: "sgd", hyper: { lr: 0.015 } }], method: 0, view: [[-2, 2], [-2, 2]], at: 200 },
  },
];
