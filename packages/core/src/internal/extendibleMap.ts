/**
 * A map of texts that never pauses to grow (extendible hashing; Fagin, Nievergelt, Pippenger, Strong, 1979).
 *
 * A `Map` copies all of its entries at once whenever it grows, or is full of deleted ones: with 100 000 entries that holds up everybody for
 * tens of milliseconds. Here a small map holds those whose hash ends alike, and only a small one is ever copied or split in two.
 */
export interface ExtendibleMap<V> {
  /** By the last bits of the hash. A bucket stands in several places until it is split. */
  buckets: Array<Bucket<V>>
  size: number
}

interface Bucket<V> {
  /** How many bits its entries have in common. */
  bits: number
  readonly entries: Map<string, V>
}

const most = 512
/** Of texts that were made up to have the same hash one bucket takes what comes. */
const mostBits = 16

export const make = <V>(): ExtendibleMap<V> => ({ buckets: [{ bits: 0, entries: new Map() }], size: 0 })

export const get = <V>(map: ExtendibleMap<V>, key: string): V | undefined => bucketOf(map, key)?.entries.get(key)

export const set = <V>(map: ExtendibleMap<V>, key: string, value: V): void => {
  let bucket = bucketOf(map, key)
  while (bucket !== undefined && bucket.entries.size >= most && bucket.bits < mostBits && !bucket.entries.has(key)) {
    split(map, bucket, hash(key))
    bucket = bucketOf(map, key)
  }
  if (bucket === undefined) return
  const before = bucket.entries.size
  bucket.entries.set(key, value)
  map.size += bucket.entries.size - before
}

export const remove = (map: ExtendibleMap<unknown>, key: string): boolean => {
  if (bucketOf(map, key)?.entries.delete(key) !== true) return false
  map.size--
  return true
}

const bucketOf = <V>({ buckets }: ExtendibleMap<V>, key: string): Bucket<V> | undefined =>
  buckets.length === 1 ? buckets[0] : buckets[hash(key) & (buckets.length - 1)]

const split = <V>(map: ExtendibleMap<V>, bucket: Bucket<V>, at: number): void => {
  const bit = 1 << bucket.bits
  if (bit === map.buckets.length) map.buckets = [...map.buckets, ...map.buckets]
  bucket.bits++
  const other: Bucket<V> = { bits: bucket.bits, entries: new Map() }
  for (const [key, value] of bucket.entries) {
    if ((hash(key) & bit) === 0) continue
    bucket.entries.delete(key)
    other.entries.set(key, value)
  }
  const { buckets } = map
  for (let place = (at & (bit - 1)) | bit; place < buckets.length; place += bit * 2) buckets[place] = other
}

// Of a long text some letters do, because the whole of it is compared in the end.
const hash = (key: string): number => {
  const step = 1 + (key.length >> 5)
  let code = key.length
  for (let at = key.length - 1; at >= 0; at -= step) code = Math.imul(code ^ key.charCodeAt(at), 0x01000193)
  return code ^ (code >>> 15)
}
