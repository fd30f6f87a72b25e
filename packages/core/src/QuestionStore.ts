/**
 * Where the questions are kept that have a stored answer: in the memory of this process, or in a table of PostgreSQL that many processes share
 * and that survives them.
 *
 * A question lies in a scope, and nothing is ever found in another one. Within it, a question is known by its canonical form, and by a vector
 * once it was embedded. Vectors of different embedders are never compared.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as CacheHash from "./internal/cacheHash.ts"
import { remembering } from "./internal/questions.ts"
import * as VectorIndex from "./VectorIndex.ts"

/**
 * A question that has a stored answer, which lies under `key`. `canonical` is equal for all ways to write the same question.
 *
 * @category models
 * @since 0.1.0
 */
export interface Question {
  readonly scope: string
  readonly question: string
  readonly canonical: string
  readonly key: string
}

/**
 * A question as it is stored.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stored extends Question {
  readonly id: string
}

/**
 * A stored question near to another one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Near extends Stored {
  readonly similarity: number
}

/**
 * What to forget: all questions of a scope, or all that lead to one key.
 *
 * @category models
 * @since 0.1.0
 */
export type Forgotten = { readonly scope: string } | { readonly key: string }

/**
 * Keeps questions.
 *
 * **Details**
 *
 * - `put` stores a question in place of the one with the same canonical form, and says whether it needs a vector of the embedder.
 * - `find` returns the question with a canonical form, and whether others of the scope have a vector of the embedder.
 * - `embed` gives a question its vector, unless it was forgotten or replaced meanwhile.
 * - `nearest` returns the questions of a scope with at least the similarity, the nearest first.
 *
 * @category services
 * @since 0.1.0
 */
export class QuestionStore extends Context.Service<
  QuestionStore,
  {
    readonly put: (
      question: Question,
      embedder: string | undefined
    ) => Effect.Effect<{ readonly stored: Stored; readonly bare: boolean }, QuestionStoreError>
    readonly find: (
      scope: string,
      canonical: string,
      embedder: string | undefined
    ) => Effect.Effect<{ readonly same: Stored | undefined; readonly others: boolean }, QuestionStoreError>
    readonly embed: (
      stored: Stored,
      embedder: string,
      vector: ArrayLike<number>
    ) => Effect.Effect<void, QuestionStoreError>
    readonly nearest: (
      scope: string,
      embedder: string,
      vector: ArrayLike<number>,
      search: VectorIndex.Search
    ) => Effect.Effect<ReadonlyArray<Near>, QuestionStoreError>
    readonly forget: (what: Forgotten) => Effect.Effect<void, QuestionStoreError>
    readonly sizes: Effect.Effect<{ readonly entries: number; readonly embedded: number }, QuestionStoreError>
  }
>()("@llm-resilience/core/QuestionStore") {}

/**
 * Error raised when a store could not do what it was asked. Similar answers are not found then, and nothing else happens.
 *
 * @category errors
 * @since 0.1.0
 */
export class QuestionStoreError extends Schema.TaggedError<QuestionStoreError>(
  "@llm-resilience/core/QuestionStore/QuestionStoreError"
)("QuestionStoreError", {
  operation: Schema.Literals(["put", "find", "embed", "nearest", "forget", "sizes"]),
  cause: Schema.Defect()
}) {
  override readonly message = "The store of similar questions failed"
}

/**
 * Options of the stores.
 *
 * **Details**
 *
 * `maxEntries` is 10 000 by default. When there are more, the oldest leave first, of the scope that has more than its share.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly maxEntries?: number | undefined
}

const boundOf = (options: Options | undefined): number => {
  const maxEntries = options?.maxEntries ?? 10_000
  if (!Number.isInteger(maxEntries) || maxEntries < 1) {
    throw new RangeError(`QuestionStore: maxEntries must be an integer >= 1, got ${maxEntries}`)
  }
  return maxEntries
}

/**
 * Creates a store in the memory of this process. Its operations complete at once.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMemory = (options?: Options): Effect.Effect<QuestionStore["Service"]> => {
  const maxEntries = boundOf(options)
  return Effect.sync(() => {
    const entries = remembering(maxEntries)
    const indexes = new Map<string, VectorIndex.VectorIndex>()
    const drop = ({ id }: Stored): void => {
      for (const index of indexes.values()) index.remove(id)
    }
    return QuestionStore.of({
      put: (question, embedder) =>
        Effect.sync(() => {
          const { dropped, entry } = entries.put(question)
          dropped.forEach(drop)
          return { stored: entry, bare: embedder !== undefined && indexes.get(embedder)?.has(entry.id) !== true }
        }),
      find: (scope, canonical, embedder) =>
        Effect.sync(() => ({
          same: entries.find(scope, canonical),
          others: embedder !== undefined && indexes.get(embedder)?.hasScope(scope) === true
        })),
      embed: (stored, embedder, vector) =>
        Effect.sync(() => {
          if (!entries.has(stored)) return
          let index = indexes.get(embedder)
          if (index === undefined) {
            index = VectorIndex.make({ dimensions: vector.length, maxEntries })
            indexes.set(embedder, index)
          }
          index.add(stored.scope, stored.id, vector)
        }),
      nearest: (scope, embedder, vector, search) =>
        Effect.sync(() =>
          (indexes.get(embedder)?.search(scope, vector, search) ?? []).flatMap(({ id, similarity }) => {
            const stored = entries.get(id)
            return stored?.scope === scope ? [{ ...stored, similarity }] : []
          })
        ),
      forget: (what) => Effect.sync(() => entries.forget(what).forEach(drop)),
      sizes: Effect.sync(() => {
        let embedded = 0
        for (const index of indexes.values()) embedded += index.size()
        return { entries: entries.size(), embedded }
      })
    })
  })
}

/**
 * Layer that keeps the questions in the memory of this process.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options?: Options): Layer.Layer<QuestionStore> =>
  Layer.effect(QuestionStore, makeMemory(options))

/**
 * Creates a store over a table of PostgreSQL 14 or newer, which it creates at first use. No extension is needed.
 *
 * **Details**
 *
 * `table` is the name of the table, `llm_questions` by default; the vectors lie in another one, `llm_questions_vectors`. A search reads the signs of all vectors of the scope (one bit for each dimension)
 * in the database, and compares the 32 that differ least exactly, as `VectorIndex` does. Bounds are kept every 256 entries, by whoever stores;
 * what is older than eight days goes then, because no answer is served for longer.
 *
 * **Gotchas**
 *
 * Questions are stored in clear, because the guard has to read them. Another dialect than PostgreSQL is a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeSql: (
  options?: Options & { readonly table?: string | undefined }
) => Effect.Effect<QuestionStore["Service"], never, SqlClient.SqlClient> = Effect.fnUntraced(function* (options) {
  const maxEntries = boundOf(options)
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()
  const name = options?.table ?? "llm_questions"
  const table = sql(name)
  const vectors = sql(`${name}_vectors`)
  sql.onDialectOrElse({
    pg: () => undefined,
    orElse: () => {
      throw new RangeError("QuestionStore.makeSql: only PostgreSQL is supported")
    }
  })

  const guarded = <A>(
    operation: QuestionStoreError["operation"],
    use: Effect.Effect<A, SqlError>
  ): Effect.Effect<A, QuestionStoreError> =>
    Effect.mapError(Effect.andThen(created, use), (cause) => new QuestionStoreError({ operation, cause }))

  // Vectors lie in a table of their own, so that a scan over the signs of a scope reads little.
  const create = sql.withTransaction(
    Effect.gen(function* () {
      // Two sessions that create the same table at the same moment fail in spite of IF NOT EXISTS, so one waits for the other.
      yield* sql`SELECT pg_advisory_xact_lock(hashtext(${name}))`
      yield* sql`
        CREATE TABLE IF NOT EXISTS ${table} (
          id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
          scope TEXT NOT NULL,
          canonical TEXT NOT NULL,
          question TEXT NOT NULL,
          key TEXT NOT NULL,
          stored_at BIGINT NOT NULL,
          embedder TEXT,
          signs BIT VARYING,
          UNIQUE (scope, canonical)
        )`
      yield* sql`
        CREATE TABLE IF NOT EXISTS ${vectors} (
          id BIGINT PRIMARY KEY REFERENCES ${table} ON DELETE CASCADE,
          vector BYTEA NOT NULL
        )`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_key`)} ON ${table} (key)`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_embedder`)} ON ${table} (scope, embedder)`
    })
  )
  let exists = false
  // At first use, and again when that failed: a database that is late does not stop the application from starting.
  const created = Effect.suspend(() =>
    exists
      ? Effect.void
      : Effect.map(create, () => {
          exists = true
        })
  )

  let puts = 0
  // The newest of each scope first, and so on in turns: what is left over is the oldest of those that have more than their share.
  const prune = Effect.gen(function* () {
    const before = (yield* Clock.currentTimeMillis) - lifetime
    yield* sql`DELETE FROM ${table} WHERE stored_at < ${before}`
    yield* sql`
      DELETE FROM ${table} WHERE id IN (
        SELECT id FROM (
          SELECT id, stored_at, row_number() OVER (PARTITION BY scope ORDER BY stored_at DESC, id DESC) AS turn FROM ${table}
        ) AS turns ORDER BY turn, stored_at DESC, id DESC OFFSET ${sql.literal(String(maxEntries))}
      )`
  })

  return QuestionStore.of({
    put: (question, embedder) =>
      guarded(
        "put",
        Effect.gen(function* () {
          if (puts++ % pruneEvery === 0) yield* prune
          const now = yield* Clock.currentTimeMillis
          // The vector of the question is still right, whatever key it leads to now.
          const [row] = yield* sql<{ id: number | string; bare: boolean }>`
            INSERT INTO ${table} AS old (scope, canonical, question, key, stored_at)
            VALUES (${question.scope}, ${digest(question.canonical)}, ${question.question}, ${question.key}, ${now})
            ON CONFLICT (scope, canonical) DO UPDATE SET
              question = excluded.question, key = excluded.key, stored_at = excluded.stored_at,
              embedder = CASE WHEN old.question = excluded.question THEN old.embedder END,
              signs = CASE WHEN old.question = excluded.question THEN old.signs END
            RETURNING id, embedder IS DISTINCT FROM CAST(${embedder ?? null} AS TEXT) AS bare`
          return { stored: { ...question, id: String(row?.id) }, bare: row?.bare === true }
        })
      ),
    find: (scope, canonical, embedder) =>
      guarded(
        "find",
        Effect.gen(function* () {
          const [same] = yield* sql<{ id: number | string; question: string; key: string }>`
            SELECT id, question, key FROM ${table} WHERE scope = ${scope} AND canonical = ${digest(canonical)}`
          if (same !== undefined) return { same: { ...same, id: String(same.id), scope, canonical }, others: true }
          if (embedder === undefined) return { same: undefined, others: false }
          const others = yield* sql`
            SELECT 1 AS one FROM ${table} WHERE scope = ${scope} AND embedder = ${embedder} LIMIT 1`
          return { same: undefined, others: others.length > 0 }
        })
      ),
    embed: ({ id, question }, embedder, vector) =>
      guarded(
        "embed",
        Effect.suspend(() => {
          const unit = unitOf(vector)
          if (unit === undefined) return Effect.void
          return Effect.asVoid(sql`
            WITH signed AS (
              UPDATE ${table} SET embedder = ${embedder}, signs = CAST(${signsOf(unit)} AS BIT VARYING)
              WHERE id = ${id} AND question = ${question}
              RETURNING id
            )
            INSERT INTO ${vectors} (id, vector) SELECT id, decode(${hexOf(unit)}, 'hex') FROM signed
            ON CONFLICT (id) DO UPDATE SET vector = excluded.vector`)
        })
      ),
    nearest: (scope, embedder, vector, { limit, threshold }) =>
      guarded(
        "nearest",
        Effect.gen(function* () {
          const unit = unitOf(vector)
          if (unit === undefined) return []
          const signs = signsOf(unit)
          const rows = yield* sql<{
            id: number | string
            canonical: string
            question: string
            key: string
            vector: Uint8Array
          }>`
            SELECT id, canonical, question, key, vector FROM (
              SELECT id, canonical, question, key FROM ${table}
              WHERE scope = ${scope} AND embedder = ${embedder}
              ORDER BY bit_count(signs # CAST(${signs} AS BIT VARYING)) LIMIT 32
            ) AS candidates JOIN ${vectors} USING (id)`
          return rows
            .map(({ vector, ...row }) => ({ ...row, id: String(row.id), scope, similarity: cosine(unit, vector) }))
            .filter(({ similarity }) => similarity >= threshold)
            .toSorted((left, right) => right.similarity - left.similarity)
            .slice(0, limit)
        })
      ),
    forget: (what) =>
      guarded(
        "forget",
        Effect.asVoid(
          "scope" in what
            ? sql`DELETE FROM ${table} WHERE scope = ${what.scope}`
            : sql`DELETE FROM ${table} WHERE key = ${what.key}`
        )
      ),
    sizes: guarded(
      "sizes",
      Effect.map(
        sql<{ entries: number | string; embedded: number | string }>`
          SELECT COUNT(*) AS entries, COUNT(embedder) AS embedded FROM ${table}`,
        ([row]) => ({ entries: Number(row?.entries ?? 0), embedded: Number(row?.embedded ?? 0) })
      )
    )
  })
})

const pruneEvery = 256
const lifetime = 8 * 24 * 60 * 60 * 1000

// A canonical form may be longer than an index takes.
const digest = CacheHash.make(new Uint8Array()).hex

const unitOf = (vector: ArrayLike<number>): Float32Array | undefined => {
  let sum = 0
  for (let at = 0; at < vector.length; at++) sum += (vector[at] ?? 0) ** 2
  const length = Math.sqrt(sum)
  return length > 0 && length < Infinity ? Float32Array.from(vector, (value) => value / length) : undefined
}

const signsOf = (unit: Float32Array): string => Array.from(unit, (value) => (value > 0 ? "1" : "0")).join("")

// Big-endian, whatever machine stores and reads.
const hexOf = (unit: Float32Array): string => {
  const view = new DataView(new ArrayBuffer(4))
  let hex = ""
  for (const value of unit) {
    view.setFloat32(0, value)
    hex += view.getUint32(0).toString(16).padStart(8, "0")
  }
  return hex
}

const cosine = (unit: Float32Array, bytes: Uint8Array): number => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let sum = 0
  for (let at = 0; at < unit.length; at++) sum += (unit[at] ?? 0) * view.getFloat32(at * 4)
  return Math.min(1, sum)
}

/**
 * Layer that keeps the questions in a table of PostgreSQL; see {@link makeSql}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSql = (
  options?: Options & { readonly table?: string | undefined }
): Layer.Layer<QuestionStore, never, SqlClient.SqlClient> => Layer.effect(QuestionStore, makeSql(options))
