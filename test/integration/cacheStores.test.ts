import { NodeRedis, NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { CacheStore, EmergencyCache } from "@llm-resilience/core"
import { Effect, Layer } from "effect"
import { KeyValueStore, Persistence } from "effect/persistence"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { afterAll } from "vitest"
import { conforms, type Kind, storing, survives } from "../support/cacheStores.ts"
import * as NodeSqlite from "../support/nodeSqlite.ts"
import * as PostgresServer from "../support/postgresServer.ts"
import * as RedisServer from "../support/redisServer.ts"

// A folder of its own for each store that is opened, and one for all of those that are opened again.
const folder = mkdtempSync(join(tmpdir(), "llm-resilience-cache-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let opened = 0
const fresh = () => join(folder, `${opened++}`)
const once = () => join(folder, "once")

const files = (path: () => string): Kind<unknown> => ({
  name: "files",
  expires: "by the clock",
  runs: 20,
  layer: (options) =>
    Layer.unwrap(
      Effect.sync(() =>
        CacheStore.layerKeyValueStore(options).pipe(
          Layer.provide(KeyValueStore.layerFileSystem(path())),
          Layer.provide(NodeServices.layer)
        )
      )
    )
})

const sqliteKeys = (path: () => string): Kind<unknown> => ({
  name: "a table of keys and values in SQLite",
  expires: "by the clock",
  runs: 20,
  layer: (options) =>
    Layer.unwrap(
      Effect.sync(() =>
        CacheStore.layerKeyValueStore(options).pipe(
          Layer.provide(KeyValueStore.layerSql()),
          Layer.provide(Layer.fresh(NodeSqlite.layer(`${path()}.keys`)))
        )
      )
    )
})

const sqlite = (path: () => string): Kind<unknown> => ({
  name: "a persistence in SQLite",
  expires: "by the clock",
  runs: 20,
  layer: (options) =>
    Layer.unwrap(
      Effect.sync(() =>
        CacheStore.layerPersistence(options).pipe(
          Layer.provide(Layer.fresh(Persistence.layerBackingSql)),
          Layer.provide(Layer.fresh(NodeSqlite.layer(`${path()}.sqlite`)))
        )
      )
    )
})

for (const kind of [files, sqliteKeys, sqlite]) {
  conforms(kind(fresh))
  survives(kind(once))
}

/** Stores an answer, stops the server, and asks on: the model answers, and the failure is counted. */
const outlives = <E>(server: { readonly stop: Effect.Effect<void> }, store: Layer.Layer<CacheStore.CacheStore, E>) =>
  Effect.gen(function* () {
    const { answering, cache, generate } = yield* storing({ mode: "read-through" })
    yield* answering("Paris.")
    yield* generate({ prompt: "?" })
    assert.strictEqual((yield* generate({ prompt: "?" })).served.from, "cache")

    yield* server.stop
    const answers = yield* Effect.forEach(["?", "!"], (prompt) => generate({ prompt }))
    assert.deepStrictEqual(
      answers.map(({ served }) => served.from),
      ["provider", "provider"]
    )
    assert.isAbove((yield* cache.statistics).failed, 0)
  }).pipe(Effect.provide(EmergencyCache.layer({ writeWithin: "1 second" }).pipe(Layer.provide(store))))

describe.skipIf(!RedisServer.installed)("with a server", () => {
  const port = RedisServer.duringTests()

  const redis = (storeId: () => string): Kind<unknown> => ({
    name: "Redis",
    expires: "in real time",
    runs: 20,
    layer: (options) =>
      Layer.unwrap(
        Effect.sync(() =>
          CacheStore.layerPersistence({ ...options, storeId: storeId() }).pipe(
            Layer.provide(Layer.fresh(Persistence.layerBackingRedis)),
            Layer.provide(Layer.fresh(NodeRedis.layer({ socket: { port: port(), host: "127.0.0.1" } })))
          )
        )
      )
  })
  conforms(redis(fresh))
  survives(redis(once))

  it.live("Redis may die while it is used", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make
      const store = CacheStore.layerPersistence().pipe(
        Layer.provide(Layer.fresh(Persistence.layerBackingRedis)),
        Layer.provide(
          Layer.fresh(
            NodeRedis.layer({
              disableOfflineQueue: true,
              socket: { port: server.port, host: "127.0.0.1", reconnectStrategy: false }
            })
          )
        )
      )
      yield* outlives(server, store)
    }).pipe(Effect.scoped)
  )
})

if (!RedisServer.installed) {
  it.skip(`Redis: ${RedisServer.missing}`, () => {})
}

describe.skipIf(!PostgresServer.installed)("with a PostgreSQL", () => {
  const port = PostgresServer.duringTests()

  const postgresKeys = (name: () => string): Kind<unknown> => ({
    name: "a table of keys and values in PostgreSQL",
    expires: "by the clock",
    runs: 20,
    layer: (options) =>
      Layer.unwrap(
        Effect.sync(() =>
          CacheStore.layerKeyValueStore(options).pipe(
            Layer.provide(Layer.fresh(KeyValueStore.layerSql({ table: `keys_${basename(name())}` }))),
            Layer.provide(PostgresServer.client(port()))
          )
        )
      )
  })

  const postgres = (name: () => string): Kind<unknown> => ({
    name: "a persistence in PostgreSQL",
    expires: "by the clock",
    runs: 20,
    layer: (options) =>
      Layer.unwrap(
        Effect.sync(() =>
          CacheStore.layerPersistence({ ...options, storeId: basename(name()) }).pipe(
            Layer.provide(Layer.fresh(Persistence.layerBackingSql)),
            Layer.provide(PostgresServer.client(port()))
          )
        )
      )
  })

  for (const kind of [postgresKeys, postgres]) {
    conforms(kind(fresh))
    survives(kind(once))
  }

  it.live("PostgreSQL may die while it is used", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make
      const store = CacheStore.layerPersistence().pipe(
        Layer.provide(Layer.fresh(Persistence.layerBackingSql)),
        Layer.provide(PostgresServer.client(server.port))
      )
      yield* outlives(server, store)
    }).pipe(Effect.scoped)
  )
})

if (!PostgresServer.installed) it.skip(`PostgreSQL: ${PostgresServer.missing}`, () => {})
