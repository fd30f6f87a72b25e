/**
 * A small generator of random numbers that is named by what it is for, not by when it was made.
 *
 * `dice(seed, a, b)` gives the same numbers whatever else was drawn before, so taking one request out of a simulation leaves all others
 * as they were: that is what makes shrinking work. The generator is mulberry32, the names are mixed with the finalizer of MurmurHash3.
 */
export interface Dice {
  /** Between 0 (included) and 1 (excluded). */
  next(): number
  /** A whole number between `low` and `high`, both included. */
  int(low: number, high: number): number
  between(low: number, high: number): number
  chance(probability: number): boolean
  pick<A>(values: readonly [A, ...Array<A>]): A
  /** Exponentially distributed: the time until something that happens once every `mean` on average. */
  exponential(mean: number): number
}

export const dice = (seed: number, ...names: ReadonlyArray<number>): Dice => new Mulberry(mix(seed, names))

// A class and no closures, because a simulation makes several for each request.
class Mulberry implements Dice {
  private state: number

  constructor(state: number) {
    this.state = state
  }

  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let bits = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
    return ((bits ^ (bits >>> 14)) >>> 0) / 4_294_967_296
  }

  int(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1))
  }

  between(low: number, high: number): number {
    return low + this.next() * (high - low)
  }

  chance(probability: number): boolean {
    return probability > 0 && this.next() < probability
  }

  pick<A>(values: readonly [A, ...Array<A>]): A {
    return values[Math.floor(this.next() * values.length)] ?? values[0]
  }

  exponential(mean: number): number {
    return -Math.log(1 - this.next()) * mean
  }
}

const mix = (seed: number, names: ReadonlyArray<number>): number => {
  let hash = finalize(Math.floor(seed / 4_294_967_296) ^ 0x9e3779b9)
  hash = finalize(hash ^ (seed | 0))
  for (const name of names) hash = finalize(Math.imul(hash, 31) ^ (name | 0))
  return hash
}

const finalize = (bits: number): number => {
  let hash = bits
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return hash ^ (hash >>> 16)
}

/** Draws from the log-normal distribution with this median and this 99th percentile: latencies are spread like that. */
export const logNormal = (median: number, p99: number): ((d: Dice) => number) => {
  const sigma = p99 > median && median > 0 ? Math.log(p99 / median) / 2.326 : 0
  return (d) => median * Math.exp(sigma * normal(d))
}

// The transformation of Box and Muller.
const normal = (d: Dice): number => Math.sqrt(-2 * Math.log(1 - d.next())) * Math.cos(2 * Math.PI * d.next())
