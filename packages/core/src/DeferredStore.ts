/**
 * Where the deferred queue keeps its requests: in memory, in a table of a SQL database, or in Redis; the last two survive the process.
 *
 * The store decides nothing. Every operation is one atomic step that names the state it expects, so that two workers, a late answer
 * and a cancellation can meet at the same entry and exactly one of them wins:
 *
 * ```
 * queued ──claim──> running ──settle──> answered | dead
 *   ^                  │
 *   └──────release─────┘        queued, running ──> cancelled      queued, lease lapsed ──> expired      dead ──requeue──> queued
 * ```
 *
 * A claim is numbered; what does not bring the number of the last claim changes nothing. A claim is leased: when its holder dies, the entry is
 * claimed again once the lease has lapsed. Times are wall-clock milliseconds handed in by the caller, because they outlive the process and are
 * compared between machines, whose clocks must agree to a fraction of the lease.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Redis from "effect/persistence/Redis"
import * as SqlClient from "effect/sql/SqlClient"
import * as Memory from "./internal/deferredMemory.ts"
import * as InRedis from "./internal/deferredRedis.ts"
import * as Sql from "./internal/deferredSql.ts"

/**
 * Where an entry is in its life. The last four are final, except that the dead can be queued again.
 *
 * @category models
 * @since 0.1.0
 */
export type State = "queued" | "running" | Final

/**
 * How an entry ended.
 *
 * @category models
 * @since 0.1.0
 */
export type Final = "answered" | "expired" | "cancelled" | "dead"

/**
 * What is stored when a request is accepted. `key` is the caller's idempotency key: of two entries with the same one only the first is kept.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly ticket: string
  readonly key: string | undefined
  readonly scope: string | undefined
  readonly priority: number
  readonly request: string
  readonly acceptedAt: number
  readonly expiresAt: number
}

/**
 * An entry as it is now. `result` is the encoded answer, `note` why it died or failed last. `request` is empty once it cannot be asked
 * again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Row extends Entry {
  readonly state: State
  readonly claim: number
  readonly attempts: number
  readonly result: string | undefined
  readonly note: string | undefined
}

/**
 * What became of an entry that was handed in.
 *
 * @category models
 * @since 0.1.0
 */
export type Inserted =
  | { readonly _tag: "Inserted" }
  | { readonly _tag: "Duplicate"; readonly ticket: string }
  | { readonly _tag: "Full" }

/**
 * Keeps the entries of one deferred queue.
 *
 * **Details**
 *
 * - `insert` takes an entry unless as many as `capacity` are queued or running.
 * - `claim` hands out the due entry with the highest priority, the oldest of them first, and counts an attempt. Those whose lease has lapsed
 *   may come before all others.
 * - `renew` prolongs the leases of these entries, as far as they are the owner's. `release` gives a claim back, with `refund` as if it had not been tried.
 * - `settle` ends a claim; `cancel` ends an entry whoever holds it. Both say whether they were first.
 * - `expire` ends what is overdue and not being worked on, and returns its tickets.
 * - `claimDelivery` and `endDelivery` lead the results to the handler: a result is delivered until its handler succeeded once.
 * - `prune` removes what was settled before a time, and the oldest beyond `keep`.
 *
 * @category services
 * @since 0.1.0
 */
export class DeferredStore extends Context.Service<
  DeferredStore,
  {
    readonly insert: (entry: Entry, capacity: number) => Effect.Effect<Inserted, StoreError>
    readonly claim: (options: {
      readonly owner: string
      readonly now: number
      readonly leaseUntil: number
    }) => Effect.Effect<Row | undefined, StoreError>
    readonly renew: (options: {
      readonly owner: string
      readonly tickets: ReadonlyArray<string>
      readonly leaseUntil: number
    }) => Effect.Effect<void, StoreError>
    readonly release: (options: {
      readonly ticket: string
      readonly claim: number
      readonly visibleAt: number
      readonly refund: boolean
      readonly note: string | undefined
    }) => Effect.Effect<boolean, StoreError>
    readonly settle: (options: {
      readonly ticket: string
      readonly claim: number
      readonly now: number
      readonly state: "answered" | "dead"
      readonly result: string | undefined
      readonly note: string | undefined
    }) => Effect.Effect<boolean, StoreError>
    readonly cancel: (options: { readonly ticket: string; readonly now: number }) => Effect.Effect<boolean, StoreError>
    readonly expire: (now: number) => Effect.Effect<ReadonlyArray<string>, StoreError>
    readonly find: (ticket: string) => Effect.Effect<Row | undefined, StoreError>
    readonly counts: Effect.Effect<Counts, StoreError>
    readonly dead: (limit: number) => Effect.Effect<ReadonlyArray<Row>, StoreError>
    readonly requeue: (options: {
      readonly ticket: string
      readonly now: number
      readonly expiresAt: number
    }) => Effect.Effect<boolean, StoreError>
    readonly claimDelivery: (options: {
      readonly owner: string
      readonly now: number
      readonly leaseUntil: number
    }) => Effect.Effect<Row | undefined, StoreError>
    readonly endDelivery: (options: {
      readonly ticket: string
      readonly owner: string
      readonly retryAt: number | undefined
    }) => Effect.Effect<void, StoreError>
    readonly prune: (options: { readonly before: number; readonly keep: number }) => Effect.Effect<void, StoreError>
  }
>()("@llm-resilience/core/DeferredStore") {}

/**
 * How many entries are not settled yet.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counts {
  readonly queued: number
  readonly running: number
}

/**
 * Creates a store that lives as long as the process.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMemory: Effect.Effect<DeferredStore["Service"]> = Effect.sync(Memory.make)

/**
 * Layer that keeps the entries in memory. They are lost with the process.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<DeferredStore> = Layer.effect(DeferredStore, makeMemory)

/**
 * Creates a store over a table of a SQL database, which it creates when it is not there.
 *
 * **Details**
 *
 * `table` is the name of the table, `llm_deferred` by default. Two queues need two tables. SQLite and PostgreSQL are supported; another
 * dialect is a defect. What was accepted is there after the process was killed, as safely as the database commits.
 *
 * **Gotchas**
 *
 * Prompts and answers are stored in clear. On PostgreSQL, processes that accept at the same moment may together exceed the capacity by one
 * entry each.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeSql = (options?: {
  readonly table?: string | undefined
}): Effect.Effect<DeferredStore["Service"], StoreError, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (client) =>
    Sql.make(client.withoutTransforms(), options?.table ?? "llm_deferred", failed)
  )

/**
 * Layer that keeps the entries in a table of a SQL database; see {@link makeSql}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSql = (options?: {
  readonly table?: string | undefined
}): Layer.Layer<DeferredStore, StoreError, SqlClient.SqlClient> => Layer.effect(DeferredStore, makeSql(options))

/**
 * Creates a store in Redis 5 or newer, through `effect/persistence` `Redis`.
 *
 * **Details**
 *
 * `prefix` begins all its keys, `{llm-deferred}:` by default; two queues need two. The braces keep them together in a cluster.
 *
 * **Gotchas**
 *
 * What was accepted is as safe as Redis keeps it: with its defaults a crash of the server loses the last minutes. Set `appendonly yes`, and
 * `maxmemory-policy noeviction`. Prompts and answers are stored in clear.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeRedis = (options?: {
  readonly prefix?: string | undefined
}): Effect.Effect<DeferredStore["Service"], never, Redis.Redis> =>
  Effect.map(Redis.Redis, (redis) => InRedis.make(redis, options?.prefix ?? "{llm-deferred}:", failed))

/**
 * Layer that keeps the entries in Redis; see {@link makeRedis}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRedis = (options?: {
  readonly prefix?: string | undefined
}): Layer.Layer<DeferredStore, never, Redis.Redis> => Layer.effect(DeferredStore, makeRedis(options))

/**
 * Error raised when the store could not do an operation.
 *
 * @category errors
 * @since 0.1.0
 */
export class StoreError extends Schema.TaggedError<StoreError>("@llm-resilience/core/DeferredStore/StoreError")(
  "StoreError",
  { operation: Schema.String, cause: Schema.Defect() }
) {
  override readonly message = "The store of deferred requests failed"
}

const failed = (operation: string) => (cause: unknown) => new StoreError({ operation, cause })
