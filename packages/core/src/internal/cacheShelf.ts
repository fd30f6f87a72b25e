import type { Address } from "../CacheKey.ts"
import * as Ages from "./ages.ts"
import * as ExtendibleMap from "./extendibleMap.ts"
import { heaviest, type Ranked } from "./heaviest.ts"

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
  /** Removes some of what expired, so that it takes little time, and returns nothing when there is no more. */
  readonly removeExpired: (now: number) => ReadonlyArray<Address>
  readonly size: () => { readonly entries: number; readonly bytes: number; readonly scopes: number }
}

export interface Bounds {
  readonly maxEntries: number
  readonly maxBytes: number
  readonly maxEntriesPerScope: number
  readonly maxBytesPerScope: number
}

interface Item<V> extends Ages.Aged<Item<V>> {
  readonly row: Row<V>
  readonly subject: string
  readonly hash: string
  readonly value: V
  readonly bytes: number
  readonly expiresAt: number
  expiry: Ranked<Item<V>> | undefined
}

// The items of a scope; the one that was used longest ago is the oldest.
interface Row<V> extends Ages.Ages<Item<V>> {
  readonly scope: string
  readonly items: ExtendibleMap.ExtendibleMap<Item<V>>
  readonly ranks: Array<Ranked<Row<V>>>
  bytes: number
  used: number
}

const atOnce = 256

export const make = <V>(bounds: Bounds): Shelf<V> => {
  const rows = ExtendibleMap.make<Row<V>>()
  // Of equals the least recently used.
  const largestBy = (weight: (row: Row<V>) => number) =>
    heaviest<Row<V>>((left, right) =>
      weight(left) === weight(right) ? left.used < right.used : weight(left) > weight(right)
    )
  const longest = largestBy(({ items }) => items.size)
  const heaviestRow = largestBy(({ bytes }) => bytes)
  const orders = [longest, heaviestRow]
  const expiring = heaviest<Item<V>>((left, right) => left.expiresAt < right.expiresAt)
  let entries = 0
  let bytes = 0
  let uses = 0

  const rowOf = (scope: string): Row<V> => {
    const known = ExtendibleMap.get(rows, scope)
    if (known !== undefined) return known
    const row: Row<V> = {
      scope,
      items: ExtendibleMap.make(),
      ranks: [],
      bytes: 0,
      used: uses++,
      oldest: undefined,
      newest: undefined
    }
    for (const order of orders) row.ranks.push(order.add(row))
    ExtendibleMap.set(rows, scope, row)
    return row
  }

  const changed = (row: Row<V>): void => {
    for (const [at, order] of orders.entries()) {
      const rank = row.ranks[at]
      if (rank === undefined) continue
      if (row.items.size > 0) order.changed(rank)
      else order.remove(rank)
    }
    if (row.items.size === 0) ExtendibleMap.remove(rows, row.scope)
  }

  const take = (item: Item<V>): Address => {
    const { expiry, hash, row, subject } = item
    ExtendibleMap.remove(row.items, hash)
    Ages.leave(row, item)
    if (expiry !== undefined) expiring.remove(expiry)
    row.bytes -= item.bytes
    entries -= 1
    bytes -= item.bytes
    changed(row)
    return { scope: row.scope, subject, hash }
  }

  const find = ({ hash, scope, subject }: Address): Item<V> | undefined => {
    const row = ExtendibleMap.get(rows, scope)
    const item = row === undefined ? undefined : ExtendibleMap.get(row.items, hash)
    return item?.subject === subject ? item : undefined
  }

  return {
    get: (address) => {
      const item = find(address)
      if (item === undefined) return undefined
      const { row } = item
      Ages.leave(row, item)
      Ages.join(row, item)
      row.used = uses++
      changed(row)
      return item.value
    },
    put: ({ scope, subject, hash }, value, size, expiresAt) => {
      const before = ExtendibleMap.get(rows, scope)
      const replaced = before === undefined ? undefined : ExtendibleMap.get(before.items, hash)
      if (replaced !== undefined) take(replaced)
      // Rather lose this one than everything else for it.
      if (size > Math.min(bounds.maxBytes, bounds.maxBytesPerScope)) return [{ scope, subject, hash }]
      const row = rowOf(scope)
      const item: Item<V> = {
        row,
        subject,
        hash,
        value,
        bytes: size,
        expiresAt,
        expiry: undefined,
        older: undefined,
        newer: undefined
      }
      item.expiry = expiring.add(item)
      ExtendibleMap.set(row.items, hash, item)
      Ages.join(row, item)
      row.bytes += size
      row.used = uses++
      entries += 1
      bytes += size
      changed(row)
      const evicted: Array<Address> = []
      while (
        row.oldest !== undefined &&
        (row.items.size > bounds.maxEntriesPerScope || row.bytes > bounds.maxBytesPerScope)
      ) {
        evicted.push(take(row.oldest))
      }
      while (entries > bounds.maxEntries || bytes > bounds.maxBytes) {
        const oldest = (entries > bounds.maxEntries ? longest : heaviestRow).top()?.oldest
        if (oldest === undefined) break
        evicted.push(take(oldest))
      }
      return evicted
    },
    remove: (address) => {
      const item = find(address)
      if (item !== undefined) take(item)
      return item !== undefined
    },
    removeAll: (scope, subject) => {
      const row = ExtendibleMap.get(rows, scope)
      if (row === undefined) return []
      const gone: Array<Address> = []
      for (const item of Ages.all(row)) if (subject === undefined || item.subject === subject) gone.push(take(item))
      return gone
    },
    removeExpired: (now) => {
      const gone: Array<Address> = []
      for (let next = expiring.top(); next !== undefined && next.expiresAt <= now && gone.length < atOnce;) {
        gone.push(take(next))
        next = expiring.top()
      }
      return gone
    },
    size: () => ({ entries, bytes, scopes: rows.size })
  }
}
