/**
 * Where the deferred queue keeps its requests: in memory, or in a table of a SQL database that survives the process.
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
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"

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
 * - `renew` prolongs every lease of an owner. `release` gives a claim back, with `refund` as if it had not been tried.
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

interface Held {
  row: Row
  readonly ordinal: number
  owner: string | undefined
  visibleAt: number
  leaseUntil: number
  settledAt: number
  delivered: boolean
}

/**
 * Creates a store that lives as long as the process.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMemory: Effect.Effect<DeferredStore["Service"]> = Effect.sync(() => {
  const pending = new Map<string, Held>()
  // In the order in which they were settled.
  const settled = new Map<string, Held>()
  const keys = new Map<string, string>()
  let ordinal = 0

  const end = (held: Held, state: Final, now: number, result?: string, note?: string): void => {
    const { request } = held.row
    held.row = { ...held.row, state, result, note, request: state === "dead" ? request : "" }
    held.owner = undefined
    held.leaseUntil = 0
    held.settledAt = now
    held.delivered = false
    pending.delete(held.row.ticket)
    settled.set(held.row.ticket, held)
  }
  const claimed = (ticket: string, claim: number): Held | undefined => {
    const held = pending.get(ticket)
    return held?.row.state === "running" && held.row.claim === claim ? held : undefined
  }
  const forget = (held: Held): void => {
    settled.delete(held.row.ticket)
    if (held.row.key !== undefined) keys.delete(held.row.key)
  }

  return DeferredStore.of({
    insert: (entry, capacity) =>
      Effect.sync((): Inserted => {
        const known = entry.key === undefined ? undefined : keys.get(entry.key)
        if (known !== undefined) return { _tag: "Duplicate", ticket: known }
        if (pending.size >= capacity) return { _tag: "Full" }
        if (entry.key !== undefined) keys.set(entry.key, entry.ticket)
        pending.set(entry.ticket, {
          row: { ...entry, state: "queued", claim: 0, attempts: 0, result: undefined, note: undefined },
          ordinal: ordinal++,
          owner: undefined,
          visibleAt: entry.acceptedAt,
          leaseUntil: 0,
          settledAt: 0,
          delivered: false
        })
        return { _tag: "Inserted" }
      }),
    claim: ({ leaseUntil, now, owner }) =>
      Effect.sync(() => {
        let best: Held | undefined
        for (const held of pending.values()) {
          const due = held.row.state === "queued" ? held.visibleAt <= now : held.leaseUntil <= now
          if (!due || held.row.expiresAt <= now) continue
          const ahead =
            best === undefined ||
            held.row.priority > best.row.priority ||
            (held.row.priority === best.row.priority && held.ordinal < best.ordinal)
          if (ahead) best = held
        }
        if (best === undefined) return undefined
        best.row = { ...best.row, state: "running", claim: best.row.claim + 1, attempts: best.row.attempts + 1 }
        best.owner = owner
        best.leaseUntil = leaseUntil
        return best.row
      }),
    renew: ({ leaseUntil, owner }) =>
      Effect.sync(() => {
        for (const held of pending.values()) if (held.owner === owner) held.leaseUntil = leaseUntil
        for (const held of settled.values()) if (held.owner === owner) held.leaseUntil = leaseUntil
      }),
    release: ({ claim, note, refund, ticket, visibleAt }) =>
      Effect.sync(() => {
        const held = claimed(ticket, claim)
        if (held === undefined) return false
        held.row = { ...held.row, state: "queued", attempts: held.row.attempts - (refund ? 1 : 0), note }
        held.owner = undefined
        held.leaseUntil = 0
        held.visibleAt = visibleAt
        return true
      }),
    settle: ({ claim, note, now, result, state, ticket }) =>
      Effect.sync(() => {
        const held = claimed(ticket, claim)
        if (held !== undefined) end(held, state, now, result, note)
        return held !== undefined
      }),
    cancel: ({ now, ticket }) =>
      Effect.sync(() => {
        const held = pending.get(ticket)
        if (held !== undefined) end(held, "cancelled", now)
        return held !== undefined
      }),
    expire: (now) =>
      Effect.sync(() => {
        const overdue = Array.from(pending.values()).filter(
          (held) => held.row.expiresAt <= now && (held.row.state === "queued" || held.leaseUntil <= now)
        )
        for (const held of overdue) end(held, "expired", now)
        return overdue.map((held) => held.row.ticket)
      }),
    find: (ticket) => Effect.sync(() => (pending.get(ticket) ?? settled.get(ticket))?.row),
    counts: Effect.sync(() => {
      let running = 0
      for (const held of pending.values()) if (held.row.state === "running") running++
      return { queued: pending.size - running, running }
    }),
    dead: (limit) =>
      Effect.sync(() =>
        Array.from(settled.values())
          .filter((held) => held.row.state === "dead")
          .slice(0, limit)
          .map((held) => held.row)
      ),
    requeue: ({ expiresAt, now, ticket }) =>
      Effect.sync(() => {
        const held = settled.get(ticket)
        if (held?.row.state !== "dead") return false
        settled.delete(ticket)
        held.row = { ...held.row, state: "queued", attempts: 0, expiresAt, note: undefined }
        held.owner = undefined
        held.visibleAt = now
        pending.set(ticket, held)
        return true
      }),
    claimDelivery: ({ leaseUntil, now, owner }) =>
      Effect.sync(() => {
        for (const held of settled.values()) {
          if (held.delivered || held.leaseUntil > now) continue
          held.owner = owner
          held.leaseUntil = leaseUntil
          return held.row
        }
        return undefined
      }),
    endDelivery: ({ owner, retryAt, ticket }) =>
      Effect.sync(() => {
        const held = settled.get(ticket)
        if (held?.owner !== owner) return
        held.owner = undefined
        held.delivered = retryAt === undefined
        held.leaseUntil = retryAt ?? 0
      }),
    prune: ({ before, keep }) =>
      Effect.sync(() => {
        for (const held of settled.values()) {
          if (held.settledAt >= before && settled.size <= keep) break
          forget(held)
        }
      })
  })
})

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
export const makeSql: (options?: {
  readonly table?: string | undefined
}) => Effect.Effect<DeferredStore["Service"], StoreError, SqlClient.SqlClient> = Effect.fnUntraced(function* (options) {
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()
  const name = options?.table ?? "llm_deferred"
  const table = sql(name)
  // A worker of PostgreSQL passes over a row that another one is just claiming; SQLite has one writer at a time anyway.
  const skipLocked: Fragment = sql.onDialectOrElse({
    pg: () => sql.literal("FOR UPDATE SKIP LOCKED"),
    sqlite: () => sql.literal(""),
    orElse: () => {
      throw new RangeError("DeferredStore.makeSql: only SQLite and PostgreSQL are supported")
    }
  })
  const guarded = <A>(operation: string, effect: Effect.Effect<A, SqlError>): Effect.Effect<A, StoreError> =>
    Effect.mapError(effect, (cause) => new StoreError({ operation, cause }))
  const changed = (operation: string, statement: Effect.Effect<ReadonlyArray<unknown>, SqlError>) =>
    guarded(
      operation,
      Effect.map(statement, (rows) => rows.length > 0)
    )
  const first = (operation: string, statement: Effect.Effect<ReadonlyArray<SqlRow>, SqlError>) =>
    guarded(
      operation,
      Effect.map(statement, ([row]) => (row === undefined ? undefined : rowOf(row)))
    )

  // Two sessions of PostgreSQL that create the same table at the same moment fail in spite of IF NOT EXISTS, so one waits for the other.
  const oneByOne = <A>(create: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    sql.onDialectOrElse({
      pg: () => sql.withTransaction(Effect.andThen(sql`SELECT pg_advisory_xact_lock(hashtext(${name}))`, create)),
      orElse: () => create
    })
  yield* guarded(
    "create",
    Effect.gen(function* () {
      yield* sql`
        CREATE TABLE IF NOT EXISTS ${table} (
          ticket TEXT PRIMARY KEY,
          dedupe TEXT UNIQUE,
          scope TEXT,
          priority INTEGER NOT NULL,
          ordinal BIGINT NOT NULL,
          request TEXT NOT NULL,
          state TEXT NOT NULL,
          owner TEXT,
          claim INTEGER NOT NULL,
          attempts INTEGER NOT NULL,
          accepted_at BIGINT NOT NULL,
          visible_at BIGINT NOT NULL,
          expires_at BIGINT NOT NULL,
          lease_until BIGINT NOT NULL,
          settled_at BIGINT,
          result TEXT,
          note TEXT,
          delivered INTEGER NOT NULL
        )`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_due`)} ON ${table} (state, priority DESC, accepted_at, ordinal)`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_expiry`)} ON ${table} (state, expires_at)`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_settled`)} ON ${table} (settled_at)`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_delivery`)} ON ${table} (delivered, settled_at)`
      yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_owner`)} ON ${table} (owner)`
    }).pipe(oneByOne)
  )

  let ordinal = 0
  const pendingStates = sql.literal("'queued', 'running'")
  return DeferredStore.of({
    insert: (entry, capacity) =>
      guarded(
        "insert",
        Effect.gen(function* () {
          const { acceptedAt, expiresAt, key, priority, request, scope, ticket } = entry
          // The casts tell PostgreSQL the types of parameters that are selected.
          const inserted = yield* sql`
            INSERT INTO ${table} (
              ticket, dedupe, scope, priority, ordinal, request, state, claim, attempts,
              accepted_at, visible_at, expires_at, lease_until, delivered
            )
            SELECT
              CAST(${ticket} AS TEXT), CAST(${key ?? null} AS TEXT), CAST(${scope ?? null} AS TEXT),
              CAST(${priority} AS INTEGER), CAST(${ordinal++} AS BIGINT), CAST(${request} AS TEXT), 'queued', 0, 0,
              CAST(${acceptedAt} AS BIGINT), CAST(${acceptedAt} AS BIGINT), CAST(${expiresAt} AS BIGINT), 0, 0
            WHERE (SELECT COUNT(*) FROM ${table} WHERE state IN (${pendingStates})) < CAST(${capacity} AS BIGINT)
            ON CONFLICT DO NOTHING
            RETURNING ticket`
          if (inserted.length > 0) return { _tag: "Inserted" }
          if (key === undefined) return { _tag: "Full" }
          const [known] = yield* sql<{ ticket: string }>`SELECT ticket FROM ${table} WHERE dedupe = ${key}`
          return known === undefined ? { _tag: "Full" } : { _tag: "Duplicate", ticket: known.ticket }
        })
      ),
    claim: ({ leaseUntil, now, owner }) => {
      const claim = (due: Fragment) =>
        first(
          "claim",
          sql<SqlRow>`
            UPDATE ${table}
            SET state = 'running', claim = claim + 1, attempts = attempts + 1, owner = ${owner}, lease_until = ${leaseUntil}
            WHERE ticket = (
              SELECT ticket FROM ${table}
              WHERE ${due} AND +expires_at > ${now}
              ORDER BY priority DESC, accepted_at, ordinal
              LIMIT 1 ${skipLocked}
            )
            RETURNING *`
        )
      // One condition for both would not follow the index that has the order, and sort the whole queue for each claim. Nor would SQLite follow
      // it without the plus, which keeps it from the index over the expiry.
      return Effect.flatMap(claim(sql`state = 'running' AND lease_until <= ${now}`), (lapsed) =>
        lapsed === undefined ? claim(sql`state = 'queued' AND visible_at <= ${now}`) : Effect.succeed(lapsed)
      )
    },
    renew: ({ leaseUntil, owner }) =>
      guarded("renew", Effect.asVoid(sql`UPDATE ${table} SET lease_until = ${leaseUntil} WHERE owner = ${owner}`)),
    release: ({ claim, note, refund, ticket, visibleAt }) =>
      changed(
        "release",
        sql`
          UPDATE ${table}
          SET state = 'queued', owner = NULL, lease_until = 0, visible_at = ${visibleAt},
            attempts = attempts - ${sql.literal(refund ? "1" : "0")}, note = ${note ?? null}
          WHERE ticket = ${ticket} AND state = 'running' AND claim = ${claim}
          RETURNING ticket`
      ),
    settle: ({ claim, note, now, result, state, ticket }) =>
      changed(
        "settle",
        sql`
          UPDATE ${table}
          SET state = ${state}, owner = NULL, lease_until = 0, settled_at = ${now}, delivered = 0,
            result = ${result ?? null}, note = ${note ?? null}
            ${sql.literal(state === "dead" ? "" : ", request = ''")}
          WHERE ticket = ${ticket} AND state = 'running' AND claim = ${claim}
          RETURNING ticket`
      ),
    cancel: ({ now, ticket }) =>
      changed(
        "cancel",
        sql`
          UPDATE ${table}
          SET state = 'cancelled', owner = NULL, lease_until = 0, settled_at = ${now}, delivered = 0, request = ''
          WHERE ticket = ${ticket} AND state IN (${pendingStates})
          RETURNING ticket`
      ),
    expire: (now) => {
      const expire = (due: Fragment) =>
        sql<{ ticket: string }>`
          UPDATE ${table}
          SET state = 'expired', owner = NULL, lease_until = 0, settled_at = ${now}, delivered = 0, request = ''
          WHERE ${due} AND expires_at <= ${now}
          RETURNING ticket`
      return guarded(
        "expire",
        Effect.zipWith(
          expire(sql`state = 'queued'`),
          expire(sql`state = 'running' AND lease_until <= ${now}`),
          (queued, lapsed) => [...queued, ...lapsed].map((row) => row.ticket)
        )
      )
    },
    find: (ticket) => first("find", sql<SqlRow>`SELECT * FROM ${table} WHERE ticket = ${ticket}`),
    counts: guarded(
      "counts",
      Effect.map(
        sql<{ state: string; entries: number | string }>`
          SELECT state, COUNT(*) AS entries FROM ${table} WHERE state IN (${pendingStates}) GROUP BY state`,
        (rows) => {
          const count = (state: State) => Number(rows.find((row) => row.state === state)?.entries ?? 0)
          return { queued: count("queued"), running: count("running") }
        }
      )
    ),
    dead: (limit) =>
      guarded(
        "dead",
        Effect.map(
          sql<SqlRow>`
            SELECT * FROM ${table} WHERE state = 'dead'
            ORDER BY settled_at, ordinal LIMIT ${sql.literal(String(limit))}`,
          (rows) => rows.map(rowOf)
        )
      ),
    requeue: ({ expiresAt, now, ticket }) =>
      changed(
        "requeue",
        sql`
          UPDATE ${table}
          SET state = 'queued', attempts = 0, visible_at = ${now}, expires_at = ${expiresAt}, settled_at = NULL,
            owner = NULL, lease_until = 0, note = NULL
          WHERE ticket = ${ticket} AND state = 'dead'
          RETURNING ticket`
      ),
    claimDelivery: ({ leaseUntil, now, owner }) =>
      first(
        "claimDelivery",
        sql<SqlRow>`
          UPDATE ${table}
          SET owner = ${owner}, lease_until = ${leaseUntil}
          WHERE ticket = (
            SELECT ticket FROM ${table}
            WHERE delivered = 0 AND settled_at IS NOT NULL AND lease_until <= ${now}
            ORDER BY settled_at, ordinal
            LIMIT 1 ${skipLocked}
          )
          RETURNING *`
      ),
    endDelivery: ({ owner, retryAt, ticket }) =>
      guarded(
        "endDelivery",
        Effect.asVoid(sql`
          UPDATE ${table}
          SET owner = NULL, lease_until = ${retryAt ?? 0},
            delivered = ${sql.literal(retryAt === undefined ? "1" : "0")}
          WHERE ticket = ${ticket} AND owner = ${owner}`)
      ),
    prune: ({ before, keep }) =>
      guarded(
        "prune",
        Effect.gen(function* () {
          yield* sql`DELETE FROM ${table} WHERE settled_at < ${before}`
          const [oldest] = yield* sql<{ settled_at: number | string }>`
            SELECT settled_at FROM ${table} WHERE settled_at IS NOT NULL
            ORDER BY settled_at DESC LIMIT 1 OFFSET ${sql.literal(String(keep))}`
          if (oldest !== undefined) yield* sql`DELETE FROM ${table} WHERE settled_at <= ${Number(oldest.settled_at)}`
        })
      )
  })
})

interface SqlRow {
  readonly ticket: string
  readonly dedupe: string | null
  readonly scope: string | null
  readonly priority: number
  readonly request: string
  readonly state: State
  readonly claim: number
  readonly attempts: number
  readonly accepted_at: number | string
  readonly expires_at: number | string
  readonly result: string | null
  readonly note: string | null
}

// Drivers of PostgreSQL give BIGINT as text.
const rowOf = (row: SqlRow): Row => ({
  ticket: row.ticket,
  key: row.dedupe ?? undefined,
  scope: row.scope ?? undefined,
  priority: row.priority,
  request: row.request,
  acceptedAt: Number(row.accepted_at),
  expiresAt: Number(row.expires_at),
  state: row.state,
  claim: row.claim,
  attempts: row.attempts,
  result: row.result ?? undefined,
  note: row.note ?? undefined
})

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
