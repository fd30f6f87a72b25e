/** The newest numbers of a series, and their quantiles: a ring for the order in which they came, and the same numbers sorted. */
export interface Newest {
  readonly add: (value: number) => void
  readonly count: () => number
  /** The number that this share of them does not exceed. There must be one. */
  readonly quantile: (share: number) => number
}

export const newest = (most: number): Newest => {
  // Twice as long, so that it still has what the sorted ones are to forget.
  const ring = new Float64Array(2 * most)
  const sorted = new Float64Array(most)
  let added = 0
  // How many of all that were added have been sorted in. Nobody asks for a quantile while all is well, so they wait for who does.
  let known = 0

  const nth = (index: number): number => ring[index % ring.length] ?? 0
  const at = (place: number): number => sorted[place] ?? Infinity
  // The first place of so many whose number is not smaller.
  const placeOf = (value: number, count: number): number => {
    let [low, high] = [0, count]
    while (low < high) {
      const middle = (low + high) >> 1
      if (at(middle) < value) low = middle + 1
      else high = middle
    }
    return low
  }
  const sortIn = (): void => {
    for (; known < added; known++) {
      const value = nth(known)
      const count = Math.min(known, most)
      // What stands between the gap that the oldest leaves and the place of the new one moves over by one.
      const gap = known < most ? count : placeOf(nth(known - most), count)
      const place = placeOf(value, count)
      if (place <= gap) {
        sorted.copyWithin(place + 1, place, gap)
        sorted[place] = value
      } else {
        sorted.copyWithin(gap, gap + 1, place)
        sorted[place - 1] = value
      }
    }
  }
  const sortAnew = (): void => {
    for (let place = 0; place < most; place++) sorted[place] = nth(known + place)
    sorted.sort()
    known = added
  }

  return {
    add: (value) => {
      ring[added++ % ring.length] = value
      if (added - known === most) sortAnew()
    },
    count: () => Math.min(added, most),
    quantile: (share) => {
      sortIn()
      const count = Math.min(added, most)
      return count === 0 ? 0 : at(Math.max(0, Math.ceil(share * count) - 1))
    }
  }
}
