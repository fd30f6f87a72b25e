// A thin SqlClient over node:sqlite. No published @effect/sql-sqlite-node loads with effect 4.1; when one does, it replaces this file.
import { DatabaseSync, type SQLInputValue } from "node:sqlite"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type * as SqlConnection from "effect/sql/SqlConnection"
import * as SqlError from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"

const make = (filename: string) =>
  Effect.gen(function* () {
    const database = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const database = new DatabaseSync(filename)
        // Two processes may have the file open; a committed transaction survives the death of its process.
        database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000")
        return database
      }),
      (database) => Effect.sync(() => database.close())
    )
    const run = <A>(work: () => A) =>
      Effect.try({
        try: work,
        catch: (cause) =>
          new SqlError.SqlError({ reason: SqlError.classifySqliteError(cause, { message: "node:sqlite failed" }) })
      })
    const prepared = new Map<string, ReturnType<DatabaseSync["prepare"]>>()
    const prepare = (sql: string) => {
      const known = prepared.get(sql)
      if (known !== undefined) return known
      const statement = database.prepare(sql)
      prepared.set(sql, statement)
      return statement
    }
    const rows = (sql: string, params: ReadonlyArray<unknown>) =>
      run(() => prepare(sql).all(...(params as ReadonlyArray<SQLInputValue>)))
    const values = (sql: string, params: ReadonlyArray<unknown>) =>
      Effect.map(rows(sql, params), (all) => all.map((row) => Object.values(row)))
    const connection: SqlConnection.Connection = {
      execute: (sql, params, transform) =>
        Effect.map(rows(sql, params), (all) => (transform === undefined ? all : transform(all))),
      executeRaw: rows,
      executeStream: () => Stream.die("not supported"),
      executeValues: values,
      executeValuesUnprepared: values,
      executeUnprepared: (sql, params, transform) =>
        Effect.map(rows(sql, params), (all) => (transform === undefined ? all : transform(all)))
    }
    const acquirers = SqlClient.makeSqliteAcquirers({
      connection: Effect.succeed(connection),
      semaphore: yield* Semaphore.make(1)
    })
    return yield* SqlClient.make({
      ...acquirers,
      compiler: Statement.makeCompilerSqlite(),
      driver: "node-sqlite",
      spanAttributes: []
    })
  })

/** Layer that opens a SQLite database, `:memory:` or a file. */
export const layer = (filename: string) =>
  Layer.provide(Layer.effect(SqlClient.SqlClient, make(filename)), Reactivity.layer)
