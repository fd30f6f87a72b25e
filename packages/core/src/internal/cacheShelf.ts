import type { Address } from "../CacheKey.ts"

/**
 * Where things stand that are bounded together and shared fairly: by number, by bytes, and for each scope.
 *
 * Within a scope the least recently used goes first. When all is full, the scope that takes most gives way, which is the one that stores
 * unless another takes more: who takes no more than a fair share is never evicted for somebody else.
 */
export interface Shelf<V> {
  /** What stands there, which is then the most recently used. */
  readonly get: (address: Address) => V | undefined
  /** Puts something there and returns what had to go for it. What is too large for the shelf goes at once. */
  readonly put: (address: Address, value: V, bytes: number, expiresAt: number) => ReadonlyArray<Address>
  readonly remove: (address: Address) => boolean
  /** Removes all of a scope, or of one subject of it. */
  readonly removeAll: (scope: string, subject?: string) => ReadonlyArray<Address>
  readonly removeExpired: (now: number) => ReadonlyArray<Address>
  readonly size: () => { readonly entries: number; readonly bytes: number; readonly scopes: number }
}

export interface Bounds {
  readonly maxEntries: number
  readonly maxBytes: number
  readonly maxEntriesPerScope: number
  readonly maxBytesPerScope: number
}

interface Item<V> {
  readonly subject: string
  readonly value: V
  readonly bytes: number
  readonly expiresAt: number
}

interface Row<V> {
  readonly items: Map<string, Item<V>>
  bytes: number
}

export const make = <V>(bounds: Bounds): Shelf<V> => {
  const rows = new Map<string, Row<V>>()
  let entries = 0
  let bytes = 0

  const take = (scope: string, row: Row<V>, hash: string): Address | undefined => {
    const item = row.items.get(hash)
    if (item === undefined) return undefined
    row.items.delete(hash)
    row.bytes -= item.bytes
    entries -= 1
    bytes -= item.bytes
    if (row.items.size === 0) rows.delete(scope)
    return { scope, subject: item.subject, hash }
  }

  const oldestOf = (scope: string, row: Row<V>): Address | undefined => {
    for (const hash of row.items.keys()) return take(scope, row, hash)
    return undefined
  }

  // Of equals the least recently used scope, because using one moves it to the end.
  const largest = (by: (row: Row<V>) => number): readonly [string, Row<V>] | undefined => {
    let found: readonly [string, Row<V>] | undefined
    let most = -1
    for (const pair of rows) {
      const weight = by(pair[1])
      if (weight <= most) continue
      most = weight
      found = pair
    }
    return found
  }

  const removeWhere = (scope: string, row: Row<V>, matches: (item: Item<V>) => boolean): ReadonlyArray<Address> =>
    Array.from(row.items).flatMap(([hash, item]) => {
      const address = matches(item) ? take(scope, row, hash) : undefined
      return address === undefined ? [] : [address]
    })

  return {
    get: ({ scope, subject, hash }) => {
      const row = rows.get(scope)
      const item = row?.items.get(hash)
      if (row === undefined || item === undefined || item.subject !== subject) return undefined
      row.items.delete(hash)
      row.items.set(hash, item)
      rows.delete(scope)
      rows.set(scope, row)
      return item.value
    },
    put: ({ scope, subject, hash }, value, size, expiresAt) => {
      const before = rows.get(scope)
      if (before !== undefined) take(scope, before, hash)
      // Rather lose this one than everything else for it.
      if (size > Math.min(bounds.maxBytes, bounds.maxBytesPerScope)) return [{ scope, subject, hash }]
      const row = before ?? { items: new Map<string, Item<V>>(), bytes: 0 }
      rows.delete(scope)
      rows.set(scope, row)
      row.items.set(hash, { subject, value, bytes: size, expiresAt })
      row.bytes += size
      entries += 1
      bytes += size
      const evicted: Array<Address> = []
      const evict = (address: Address | undefined) => {
        if (address !== undefined) evicted.push(address)
      }
      while (row.items.size > bounds.maxEntriesPerScope || row.bytes > bounds.maxBytesPerScope) {
        evict(oldestOf(scope, row))
      }
      while (entries > bounds.maxEntries || bytes > bounds.maxBytes) {
        const found = largest(entries > bounds.maxEntries ? (row) => row.items.size : (row) => row.bytes)
        if (found === undefined) break
        evict(oldestOf(...found))
      }
      return evicted
    },
    remove: ({ scope, subject, hash }) => {
      const row = rows.get(scope)
      return row?.items.get(hash)?.subject === subject && take(scope, row, hash) !== undefined
    },
    removeAll: (scope, subject) => {
      const row = rows.get(scope)
      return row === undefined
        ? []
        : removeWhere(scope, row, (item) => subject === undefined || item.subject === subject)
    },
    removeExpired: (now) =>
      Array.from(rows).flatMap(([scope, row]) => removeWhere(scope, row, (item) => item.expiresAt <= now)),
    size: () => ({ entries, bytes, scopes: rows.size })
  }
}
