/** What is left of something after `elapsed` milliseconds, when half of it is forgotten every `halfLife` milliseconds, or nothing ever. */
export const fade = (elapsed: number, halfLife: number): number =>
  elapsed <= 0 || halfLife === Infinity ? 1 : Math.exp((-Math.LN2 * elapsed) / halfLife)
