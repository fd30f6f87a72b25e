/** Counts of durations, in buckets that are two percent wide, so that millions of them take no room. */
export interface Histogram {
  readonly add: (millis: number) => void
  /** The duration below which this share of them is. */
  readonly at: (share: number) => number
}

export const histogram = (): Histogram => {
  const buckets: Array<number> = []
  let count = 0
  return {
    add: (millis) => {
      const bucket = millis <= 1 ? 0 : Math.ceil(Math.log(millis) / step)
      buckets[bucket] = (buckets[bucket] ?? 0) + 1
      count++
    },
    at: (share) => {
      let seen = 0
      for (let bucket = 0; bucket < buckets.length; bucket++) {
        seen += buckets[bucket] ?? 0
        if (seen >= share * count && seen > 0) return Math.exp(bucket * step)
      }
      return 0
    }
  }
}

const step = Math.log(1.02)
