/**
 * Finds the nearest vectors of one scope in memory.
 *
 * Vectors are partitioned by scope first, so a search never sees another tenant's. Within a scope the search is a scan: graph indexes would
 * lose a tenth of the hits. A scan over the signs of each vector (one bit for each dimension) comes first; the vectors whose signs differ
 * least are then compared exactly. The signs of two vectors with cosine c differ in acos(c) / pi of the places on average; what differs
 * in far more than that cannot be a neighbour and is left after its first 128 bits.
 *
 * Vectors lie in blocks of at most 1024 rows and 2 MiB, so inserting never copies more than one of them, and ids in small maps, so it never
 * pauses to copy a large one. Scopes with few entries, and vectors with fewer than 256 dimensions, are scanned exactly.
 *
 * @since 0.1.0
 */
import * as Ages from "./internal/ages.ts"
import * as ExtendibleMap from "./internal/extendibleMap.ts"
import { heaviest, type Ranked } from "./internal/heaviest.ts"

/**
 * A vector that was found, with the cosine of the angle between it and the one that was searched for.
 *
 * @category models
 * @since 0.1.0
 */
export interface Neighbour {
  readonly id: string
  readonly similarity: number
}

/**
 * An index in memory. All of it is synchronous.
 *
 * **Details**
 *
 * - `add` replaces a vector with the same id, and evicts the oldest when the index is full: of its own scope when that has more than its
 *   share, else of the largest scope. It returns the id of the evicted one. A vector without a direction (zero, not finite) is refused.
 * - `search` returns at most `limit` neighbours at or above `threshold`, the nearest first.
 * - `bytes` is what the vectors take, ids excepted.
 *
 * @category models
 * @since 0.1.0
 */
export interface VectorIndex {
  readonly add: (scope: string, id: string, vector: ArrayLike<number>) => string | undefined
  readonly search: (scope: string, vector: ArrayLike<number>, options: Search) => ReadonlyArray<Neighbour>
  readonly remove: (id: string) => boolean
  readonly has: (id: string) => boolean
  readonly hasScope: (scope: string) => boolean
  readonly removeScope: (scope: string) => void
  readonly size: () => number
  readonly bytes: () => number
}

/**
 * What to search for.
 *
 * @category models
 * @since 0.1.0
 */
export interface Search {
  readonly limit: number
  readonly threshold: number
}

interface Block {
  readonly capacity: number
  readonly entries: Array<Entry>
  readonly vectors: Float32Array
  /** The first 128 signs of each row, on their own so that a scan reads little memory. */
  readonly heads: Int32Array
  readonly tails: Int32Array
}

interface Entry extends Ages.Aged<Entry> {
  readonly id: string
  readonly number: number
  readonly partition: Partition
  row: number
}

interface Partition extends Ages.Ages<Entry> {
  readonly scope: string
  readonly blocks: Array<Block>
  rows: number
}

/** A block is what is copied or cleared at once, so it is bounded. */
const blockBytes = 2 ** 21
const headWords = 4
/** How many of the least different signs are compared exactly. */
const reranked = 32

/**
 * Creates an index.
 *
 * **Details**
 *
 * `maxEntries` is 10 000 by default.
 *
 * **Example** (Nearest within a scope)
 *
 * ```ts import.meta.vitest
 * import { VectorIndex } from "@llm-resilience/core"
 *
 * const index = VectorIndex.make({ dimensions: 2 })
 * index.add("tenant-a", "east", [1, 0])
 * index.add("tenant-a", "north", [0, 1])
 * index.add("tenant-b", "other", [1, 0])
 *
 * index.search("tenant-a", [5, 0], { limit: 8, threshold: 0.9 }) // => [{ id: "east", similarity: 1 }]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: {
  readonly dimensions: number
  readonly maxEntries?: number | undefined
}): VectorIndex => {
  const { dimensions, maxEntries = 10_000 } = options
  for (const [name, value] of Object.entries({ dimensions, maxEntries })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`VectorIndex.make: ${name} must be an integer >= 1, got ${value}`)
    }
  }
  const coded = dimensions >= 256
  const tailWords = coded ? Math.ceil(dimensions / 32) - headWords : 0
  const words = headWords + tailWords
  const blockRows = Math.max(32, Math.min(1024, 2 ** Math.floor(Math.log2(blockBytes / (4 * dimensions)))))
  const partitions = ExtendibleMap.make<Ranked<Partition>>()
  const entries = ExtendibleMap.make<Entry>()
  // Of equals the one with the oldest entry.
  const largest = heaviest<Partition>((left, right) =>
    left.rows === right.rows ? (left.oldest?.number ?? 0) < (right.oldest?.number ?? 0) : left.rows > right.rows
  )
  let numbers = 0
  let capacity = 0
  const code = new Int32Array(words)
  const passed = new Int32Array(coded ? blockRows : 0)

  const encode = (unit: Float32Array): void => {
    code.fill(0)
    for (let at = 0; at < dimensions; at++) {
      if ((unit[at] ?? 0) > 0) code[at >> 5] = (code[at >> 5] ?? 0) | (1 << (at & 31))
    }
  }

  const blockOf = (rows: number): Block => ({
    capacity: rows,
    entries: [],
    vectors: new Float32Array(rows * dimensions),
    heads: new Int32Array(coded ? rows * headWords : 0),
    tails: new Int32Array(coded ? rows * tailWords : 0)
  })

  // Only the first block grows, from one row to a whole block, so small scopes stay small.
  const room = (partition: Partition): void => {
    const { rows } = partition
    const at = Math.floor(rows / blockRows)
    const block = partition.blocks[at]
    if (block === undefined) {
      const added = blockOf(at === 0 ? 1 : blockRows)
      capacity += added.capacity
      partition.blocks.push(added)
    } else if (rows % blockRows >= block.capacity) {
      capacity += Math.min(blockRows, block.capacity * 2) - block.capacity
      const larger = { ...blockOf(Math.min(blockRows, block.capacity * 2)), entries: block.entries }
      larger.vectors.set(block.vectors)
      larger.heads.set(block.heads)
      larger.tails.set(block.tails)
      partition.blocks[at] = larger
    }
  }

  const put = (partition: Partition, row: number, unit: Float32Array): void => {
    const block = partition.blocks[Math.floor(row / blockRows)]
    const at = row % blockRows
    block?.vectors.set(unit, at * dimensions)
    if (!coded) return
    encode(unit)
    block?.heads.set(code.subarray(0, headWords), at * headWords)
    block?.tails.set(code.subarray(headWords), at * tailWords)
  }

  const vectorAt = (partition: Partition, row: number): Float32Array | undefined => {
    const at = row % blockRows
    return partition.blocks[Math.floor(row / blockRows)]?.vectors.subarray(at * dimensions, (at + 1) * dimensions)
  }

  const remove = (id: string): boolean => {
    const entry = ExtendibleMap.get(entries, id)
    const ranked = entry === undefined ? undefined : ExtendibleMap.get(partitions, entry.partition.scope)
    if (entry === undefined || ranked === undefined) return false
    const { partition, row } = entry
    const last = partition.rows - 1
    const vector = vectorAt(partition, last)
    const moved = partition.blocks[Math.floor(last / blockRows)]?.entries.pop()
    if (moved !== undefined && moved !== entry && vector !== undefined) {
      put(partition, row, vector)
      place(partition, row, moved)
    }
    ExtendibleMap.remove(entries, id)
    Ages.leave(partition, entry)
    partition.rows = last
    if (last % blockRows === 0) capacity -= partition.blocks.pop()?.capacity ?? 0
    if (last > 0) largest.changed(ranked)
    else {
      largest.remove(ranked)
      ExtendibleMap.remove(partitions, partition.scope)
    }
    return true
  }

  const place = (partition: Partition, row: number, entry: Entry): void => {
    const block = partition.blocks[Math.floor(row / blockRows)]
    if (block === undefined) return
    block.entries[row % blockRows] = entry
    entry.row = row
  }

  const evict = (scope: string): string | undefined => {
    const [own, top] = [ExtendibleMap.get(partitions, scope)?.value, largest.top()]
    const rows = own?.rows ?? 0
    const oldest = (rows * partitions.size > maxEntries || rows === top?.rows ? own : top)?.oldest
    if (oldest !== undefined) remove(oldest.id)
    return oldest?.id
  }

  const partitionOf = (scope: string): Ranked<Partition> => {
    const known = ExtendibleMap.get(partitions, scope)
    if (known !== undefined) return known
    const ranked = largest.add({ scope, blocks: [], rows: 0, oldest: undefined, newest: undefined })
    ExtendibleMap.set(partitions, scope, ranked)
    return ranked
  }

  const exact = (partition: Partition, unit: Float32Array, search: Search): Array<Neighbour> => {
    const found: Array<Neighbour> = []
    for (let row = 0; row < partition.rows; row++) consider(partition, row, unit, search, found)
    return found
  }

  const consider = (
    partition: Partition,
    row: number,
    unit: Float32Array,
    { limit, threshold }: Search,
    found: Array<Neighbour>
  ): void => {
    const block = partition.blocks[Math.floor(row / blockRows)]
    const id = block?.entries[row % blockRows]?.id
    if (block === undefined || id === undefined) return
    const similarity = dot(block.vectors, (row % blockRows) * dimensions, unit)
    if (similarity < threshold) return
    let at = found.length
    while (at > 0 && (found[at - 1]?.similarity ?? 1) < similarity) at--
    if (at >= limit) return
    found.splice(at, 0, { id, similarity: Math.min(1, similarity) })
    if (found.length > limit) found.pop()
  }

  const bySigns = (partition: Partition, unit: Float32Array, search: Search): Array<Neighbour> => {
    encode(unit)
    const bits = words * 32
    const chance = Math.acos(Math.max(-1, Math.min(1, search.threshold))) / Math.PI
    // Six standard deviations, were the signs independent of each other.
    const within = (places: number) => Math.ceil(chance * places + 6 * Math.sqrt(places * chance * (1 - chance)) + 1)
    const headLimit = within(headWords * 32)
    // Two words alone rule out most.
    const firstLimit = within(64)
    // Candidates by their distance; the limit falls as soon as enough are nearer.
    let limit = Math.min(bits, within(bits))
    const nearer: Array<Array<number> | undefined> = Array.from({ length: limit + 1 })
    let count = 0
    for (let b = 0; b < partition.blocks.length; b++) {
      const block = partition.blocks[b]
      if (block === undefined) continue
      const { heads, tails } = block
      const rows = Math.min(blockRows, partition.rows - b * blockRows)
      const candidates = scan(heads, rows, code, firstLimit, Math.min(headLimit, limit), passed)
      for (let c = 0; c < candidates; c++) {
        const row = (passed[c] ?? 0) >>> 8
        let distance = (passed[c] ?? 0) & 255
        let t = row * tailWords
        for (let w = headWords; w < words; w++, t++) distance += ones((tails[t] ?? 0) ^ (code[w] ?? 0))
        if (distance > limit) continue
        const bucket = nearer[distance]
        if (bucket === undefined) nearer[distance] = [b * blockRows + row]
        else bucket.push(b * blockRows + row)
        count++
        // Drop the farthest bucket while the others alone are enough.
        for (;;) {
          const farthest = nearer[limit]?.length ?? 0
          if (count - farthest < reranked || limit === 0) break
          nearer[limit] = undefined
          count -= farthest
          limit--
        }
      }
    }
    const found: Array<Neighbour> = []
    for (let distance = 0; distance <= limit; distance++) {
      for (const row of nearer[distance] ?? []) consider(partition, row, unit, search, found)
    }
    return found
  }

  return {
    add: (scope, id, vector) => {
      const unit = normalized(vector, dimensions, "add")
      if (unit === undefined) return undefined
      remove(id)
      const evicted = entries.size >= maxEntries ? evict(scope) : undefined
      const ranked = partitionOf(scope)
      const partition = ranked.value
      room(partition)
      const row = partition.rows++
      const entry: Entry = { id, number: numbers++, partition, row, older: undefined, newer: undefined }
      place(partition, row, entry)
      put(partition, row, unit)
      Ages.join(partition, entry)
      ExtendibleMap.set(entries, id, entry)
      largest.changed(ranked)
      return evicted
    },
    search: (scope, vector, search) => {
      const partition = ExtendibleMap.get(partitions, scope)?.value
      const unit = normalized(vector, dimensions, "search")
      if (partition === undefined || unit === undefined) return []
      return coded && partition.rows > 64 ? bySigns(partition, unit, search) : exact(partition, unit, search)
    },
    remove,
    has: (id) => ExtendibleMap.get(entries, id) !== undefined,
    hasScope: (scope) => ExtendibleMap.get(partitions, scope) !== undefined,
    removeScope: (scope) => {
      const ranked = ExtendibleMap.get(partitions, scope)
      if (ranked === undefined) return
      for (const { id } of Ages.all(ranked.value)) ExtendibleMap.remove(entries, id)
      for (const block of ranked.value.blocks) capacity -= block.capacity
      largest.remove(ranked)
      ExtendibleMap.remove(partitions, scope)
    },
    size: () => entries.size,
    bytes: () => capacity * 4 * (dimensions + (coded ? words : 0))
  }
}

const normalized = (vector: ArrayLike<number>, dimensions: number, method: string): Float32Array | undefined => {
  if (vector.length !== dimensions) {
    throw new RangeError(`VectorIndex.${method}: the vector must have ${dimensions} dimensions, got ${vector.length}`)
  }
  const unit = new Float32Array(dimensions)
  let sum = 0
  for (let at = 0; at < dimensions; at++) sum += (vector[at] ?? 0) ** 2
  const length = Math.sqrt(sum)
  if (!(length > 0 && length < Infinity)) return undefined
  for (let at = 0; at < dimensions; at++) unit[at] = (vector[at] ?? 0) / length
  return unit
}

// The rows whose first signs differ in few places, each with the number of those: row * 256 + places. A function of its own, because the
// compiler makes the most of a loop that calls for nothing else.
const scan = (
  heads: Int32Array,
  rows: number,
  code: Int32Array,
  firstLimit: number,
  headLimit: number,
  passed: Int32Array
): number => {
  const [q0 = 0, q1 = 0, q2 = 0, q3 = 0] = code
  let count = 0
  for (let row = 0, h = 0; row < rows; row++, h += headWords) {
    const first = pairs((heads[h] ?? 0) ^ q0, (heads[h + 1] ?? 0) ^ q1)
    if (first > firstLimit) continue
    const head = first + pairs((heads[h + 2] ?? 0) ^ q2, (heads[h + 3] ?? 0) ^ q3)
    if (head <= headLimit) passed[count++] = (row << 8) | head
  }
  return count
}

const dot = (vectors: Float32Array, from: number, unit: Float32Array): number => {
  let [a, b] = [0, 0]
  const even = unit.length & ~1
  for (let at = 0; at < even; at += 2) {
    a += (vectors[from + at] ?? 0) * (unit[at] ?? 0)
    b += (vectors[from + at + 1] ?? 0) * (unit[at + 1] ?? 0)
  }
  return even === unit.length ? a + b : a + b + (vectors[from + even] ?? 0) * (unit[even] ?? 0)
}

const ones = (word: number): number => {
  let v = word - ((word >>> 1) & 0x55555555)
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333)
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

// Two words at once: their counts are added up before the last, dear step.
const pairs = (a: number, b: number): number => {
  let v = a - ((a >>> 1) & 0x55555555)
  let w = b - ((b >>> 1) & 0x55555555)
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333)
  w = (w & 0x33333333) + ((w >>> 2) & 0x33333333)
  v += w
  return Math.imul((v & 0x0f0f0f0f) + ((v >>> 4) & 0x0f0f0f0f), 0x01010101) >>> 24
}
