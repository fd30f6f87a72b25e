import * as Effect from "effect/Effect"
import type * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import type { DeferredStore, Row, State, StoreError } from "../DeferredStore.ts"

/** A deferred store in a table of SQLite or PostgreSQL, which it creates. */
export const make = Effect.fnUntraced(function* (
  sql: SqlClient.SqlClient,
  name: string,
  failed: (operation: string) => (cause: unknown) => StoreError
): Effect.fn.Return<DeferredStore["Service"], StoreError> {
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
    Effect.mapError(effect, failed(operation))
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
  return {
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
    renew: ({ leaseUntil, owner, tickets }) =>
      guarded(
        "renew",
        Effect.asVoid(
          sql`UPDATE ${table} SET lease_until = ${leaseUntil} WHERE owner = ${owner} AND ${sql.in("ticket", tickets)}`
        )
      ),
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
          WHERE ticket = ${ticket} AND owner = ${owner} AND settled_at IS NOT NULL`)
      ),
    prune: ({ before, keep }) =>
      guarded(
        "prune",
        Effect.gen(function* () {
          yield* sql`DELETE FROM ${table} WHERE settled_at < ${before}`
          // SQLite knows no offset without a limit.
          yield* sql`
            DELETE FROM ${table} WHERE ticket IN (
              SELECT ticket FROM ${table} WHERE settled_at IS NOT NULL
              ORDER BY settled_at DESC, ordinal DESC LIMIT 2147483647 OFFSET ${sql.literal(String(keep))}
            )`
        })
      )
  } satisfies DeferredStore["Service"]
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
