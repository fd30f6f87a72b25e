/** Finds the first of many whose rank changes all the time, in a binary heap: to look at all of them for every entry that is evicted takes too long. */
export interface Heaviest<A> {
  readonly add: (value: A) => Ranked<A>
  /** To be called whenever the rank of a value has changed. */
  readonly changed: (ranked: Ranked<A>) => void
  readonly remove: (ranked: Ranked<A>) => void
  readonly top: () => A | undefined
}

/** A value and where it stands. */
export interface Ranked<A> {
  readonly value: A
  place: number
}

export const heaviest = <A>(isBefore: (left: A, right: A) => boolean): Heaviest<A> => {
  const heap: Array<Ranked<A>> = []
  const put = (ranked: Ranked<A>, place: number): void => {
    ranked.place = place
    heap[place] = ranked
  }
  const changed = (ranked: Ranked<A>): void => {
    let { place } = ranked
    for (;;) {
      const above = heap[(place - 1) >> 1]
      if (above === undefined || place === 0 || !isBefore(ranked.value, above.value)) break
      put(above, place)
      place = (place - 1) >> 1
    }
    for (;;) {
      const [left, right] = [heap[place * 2 + 1], heap[place * 2 + 2]]
      const below = right !== undefined && left !== undefined && isBefore(right.value, left.value) ? right : left
      if (below === undefined || !isBefore(below.value, ranked.value)) break
      const free = below.place
      put(below, place)
      place = free
    }
    put(ranked, place)
  }
  return {
    add: (value) => {
      const ranked = { value, place: heap.length }
      heap.push(ranked)
      changed(ranked)
      return ranked
    },
    changed,
    remove: (ranked) => {
      const last = heap.pop()
      if (last === undefined || last === ranked) return
      put(last, ranked.place)
      changed(last)
    },
    top: () => heap[0]?.value
  }
}
