/** Things in the order of their age, each of which can leave at once: the order of a `Map`, without its pauses. */
export interface Ages<A> {
  oldest: A | undefined
  newest: A | undefined
}

/** What stands in such an order. */
export interface Aged<A> {
  older: A | undefined
  newer: A | undefined
}

export const join = <A extends Aged<A>>(ages: Ages<A>, newest: A): void => {
  newest.older = ages.newest
  if (ages.newest === undefined) ages.oldest = newest
  else ages.newest.newer = newest
  ages.newest = newest
}

export const leave = <A extends Aged<A>>(ages: Ages<A>, one: A): void => {
  if (one.older === undefined) ages.oldest = one.newer
  else one.older.newer = one.newer
  if (one.newer === undefined) ages.newest = one.older
  else one.newer.older = one.older
  one.older = undefined
  one.newer = undefined
}

/** All of them, the oldest first. Whoever is given out may leave. */
export function* all<A extends Aged<A>>(ages: Ages<A>): Generator<A> {
  for (let one = ages.oldest; one !== undefined;) {
    const next = one.newer
    yield one
    one = next
  }
}
