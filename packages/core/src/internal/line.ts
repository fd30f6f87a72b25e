/**
 * What waits, in the order in which it came. Most leave as quickly as they came, one or two for each call, and a `Set` then spends its time on
 * hashes and on growing and shrinking.
 */
export interface Line<A> {
  readonly size: () => number
  readonly add: (value: A) => Place<A>
  /** Returns whether it was still there. */
  readonly remove: (place: Place<A>) => boolean
  /** Whoever goes through the line may remove any place of it. Who comes meanwhile may be seen or not. */
  readonly places: () => Iterable<Place<A>>
}

export interface Place<A> {
  readonly value: A
  before: Place<A> | undefined
  // Kept by a place that was removed, for those who stand on it.
  after: Place<A> | undefined
  isTaken: boolean
}

export const make = <A>(): Line<A> => {
  let first: Place<A> | undefined
  let last: Place<A> | undefined
  let size = 0
  return {
    size: () => size,
    add: (value) => {
      const place: Place<A> = { value, before: last, after: undefined, isTaken: true }
      if (last === undefined) first = place
      else last.after = place
      last = place
      size++
      return place
    },
    remove: (place) => {
      if (!place.isTaken) return false
      const { after, before } = place
      if (before === undefined) first = after
      else before.after = after
      if (after === undefined) last = before
      else after.before = before
      place.isTaken = false
      size--
      return true
    },
    places: function* () {
      for (let place = first; place !== undefined; place = place.after) if (place.isTaken) yield place
    }
  }
}
