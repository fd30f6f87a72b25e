/** The newest numbers of a series, and their quantiles: a ring for the order in which they came, and the same numbers sorted. */
export interface Newest {
  readonly add: (value: number) => void
  readonly count: () => number
  /** The number that this share of them does not exceed. There must be one. */
  readonly quantile: (share: number) => number
}

export const newest = (most: number): Newest => {
  const ring: Array<number> = []
  const sorted: Array<number> = []
  let next = 0
  // The first place whose number is not smaller.
  const placeOf = (value: number): number => {
    let [low, high] = [0, sorted.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sorted[middle] ?? Infinity) < value) low = middle + 1
      else high = middle
    }
    return low
  }
  return {
    add: (value) => {
      const oldest = ring[next]
      if (ring.length === most && oldest !== undefined) sorted.splice(placeOf(oldest), 1)
      ring[next] = value
      next = (next + 1) % most
      sorted.splice(placeOf(value), 0, value)
    },
    count: () => ring.length,
    quantile: (share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
  }
}
