import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { DeferredQueue, DeferredStore, LlmRequest, LlmResponse, Provider } from "@llm-resilience/core"
import { Context, Effect, Fiber, Layer } from "effect"
import { conforms, entryOf, newTable } from "../support/deferredStores.ts"
import * as NodeSqlite from "../support/nodeSqlite.ts"
import * as PostgresServer from "../support/postgresServer.ts"
import * as RedisServer from "../support/redisServer.ts"

conforms({ name: "memory", layer: () => Layer.fresh(DeferredStore.layerMemory) })
conforms({
  name: "SQLite",
  layer: (table) =>
    DeferredStore.layerSql({ table }).pipe(Layer.provide(Layer.fresh(NodeSqlite.layer(":memory:"))), Layer.fresh)
})

/** What holds for a store that many processes share. Each layer has connections of its own, as another process has. */
const shared = <E>(name: string, layer: (table: string) => Layer.Layer<DeferredStore.DeferredStore, E>) => {
  const processes = (table: string, count: number) =>
    Effect.forEach(
      Array.from({ length: count }),
      () => Effect.map(Layer.build(layer(table)), (built) => Context.get(built, DeferredStore.DeferredStore)),
      { concurrency: "unbounded" }
    )

  conforms({ name, layer })

  it.live("processes that start at the same moment share what one of them creates", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 5; round++) {
        yield* Effect.scoped(processes(newTable(), 8))
      }
    })
  )

  it.live("every entry is claimed once, however many ask at the same moment", () =>
    Effect.gen(function* () {
      const stores = yield* processes(newTable(), 4)
      const now = entryOf("").acceptedAt
      const tickets = Array.from({ length: 200 }, (_, index) => `${index}`)
      const [store] = stores
      yield* Effect.forEach(tickets, (ticket) => store?.insert(entryOf(ticket), 1000) ?? Effect.void)
      const claimAll = (store: DeferredStore.DeferredStore["Service"], owner: string) =>
        Effect.gen(function* () {
          const mine: Array<string> = []
          while (true) {
            const row = yield* store.claim({ owner, now, leaseUntil: now + 1000 })
            if (row === undefined) return mine
            mine.push(row.ticket)
          }
        })
      const claimed = yield* Effect.forEach(
        stores.flatMap((store, at) => Array.from({ length: 4 }, (_, index) => ({ store, owner: `${at} ${index}` }))),
        ({ owner, store }) => claimAll(store, owner),
        { concurrency: "unbounded" }
      )
      assert.sameMembers(claimed.flat(), tickets)
      assert.isAbove(claimed.filter((mine) => mine.length > 0).length, 1)
    }).pipe(Effect.scoped)
  )

  it.live("the same key gives the same ticket to all who hand it in at the same moment", () =>
    Effect.gen(function* () {
      const stores = yield* processes(newTable(), 4)
      for (let round = 0; round < 20; round++) {
        const inserted = yield* Effect.forEach(
          stores,
          (store, index) => {
            const ticket = `${round} ${index}`
            return Effect.map(store.insert(entryOf(ticket, { key: `${round}` }), 1000), (result) =>
              result._tag === "Duplicate" ? result.ticket : result._tag === "Inserted" ? ticket : result._tag
            )
          },
          { concurrency: "unbounded" }
        )
        assert.strictEqual(new Set(inserted).size, 1)
      }
    }).pipe(Effect.scoped)
  )

  it.live("several workers answer each ticket once", () =>
    Effect.gen(function* () {
      const table = newTable()
      const asked: Array<string> = []
      const handled: Array<string> = []
      const worked = new Set<string>()
      const worker = (name: string) =>
        Provider.make({
          id: name,
          model: "m",
          generate: (request) =>
            Effect.gen(function* () {
              const content = request.prompt.content[0]?.content ?? ""
              const index = typeof content !== "string" && content[0]?.type === "text" ? content[0].text : ""
              asked.push(index)
              worked.add(name)
              yield* Effect.sleep(Number(index) % 7)
              return { content: LlmResponse.textContent(`answer to ${index}`) }
            })
        })
      const queue = DeferredQueue.make({
        every: 0,
        concurrency: 4,
        pollInterval: "50 millis",
        onSettled: (settled) => Effect.sync(() => handled.push(settled.ticket))
      })
      const queues = yield* Effect.forEach(yield* processes(table, 4), (store) =>
        Effect.provideService(queue, DeferredStore.DeferredStore, store)
      )
      const workers = yield* Effect.forEach(queues, (queue, index) =>
        Effect.forkChild(queue.workOff(worker(`worker ${index}`)))
      )
      const ends = yield* Effect.forEach(
        queues.flatMap((queue, at) => Array.from({ length: 50 }, (_, index) => ({ queue, index: 50 * at + index }))),
        ({ index, queue }) =>
          Effect.gen(function* () {
            const ticket = yield* queue.accept(LlmRequest.make({ prompt: `${index}`, mayWait: true }))
            const end = yield* queue.await(ticket)
            assert.strictEqual(end._tag === "Answered" ? end.response.text : end._tag, `answer to ${index}`)
            return ticket
          }),
        { concurrency: "unbounded" }
      )
      while (handled.length < ends.length) yield* Effect.sleep("20 millis")
      yield* Fiber.interruptAll(workers)

      assert.strictEqual(new Set(asked).size, 200)
      assert.strictEqual(asked.length, 200)
      assert.sameMembers(handled, ends)
      assert.isAbove(worked.size, 1)
      for (const queue of queues) assert.deepStrictEqual(yield* queue.size, { queued: 0, running: 0 })
    }).pipe(Effect.scoped)
  )
}

describe.skipIf(!PostgresServer.installed)("with a PostgreSQL", () => {
  const port = PostgresServer.duringTests()
  shared("PostgreSQL", (table) =>
    Layer.unwrap(
      Effect.sync(() =>
        DeferredStore.layerSql({ table }).pipe(Layer.provide(PostgresServer.client(port(), 4)), Layer.fresh)
      )
    )
  )
})

describe.skipIf(!RedisServer.installed)("with a Redis", () => {
  const port = RedisServer.duringTests()
  shared("Redis", (table) =>
    Layer.unwrap(
      Effect.sync(() =>
        DeferredStore.layerRedis({ prefix: `${table}:` }).pipe(
          Layer.provide(Layer.fresh(NodeRedis.layer({ socket: { port: port(), host: "127.0.0.1" } }))),
          Layer.fresh
        )
      )
    )
  )

  it.live("a server that is gone is an error, and nothing else", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make
      const socket = { port: server.port, host: "127.0.0.1", reconnectStrategy: false } as const
      const redis = Layer.fresh(NodeRedis.layer({ disableOfflineQueue: true, socket }))
      const built = yield* Layer.build(DeferredStore.layerRedis().pipe(Layer.provide(redis)))
      const store = Context.get(built, DeferredStore.DeferredStore)
      assert.strictEqual((yield* store.insert(entryOf("one"), 1))._tag, "Inserted")
      yield* server.stop

      const error = yield* Effect.flip(store.counts)
      assert.deepStrictEqual([error._tag, error.operation], ["StoreError", "counts"])
    }).pipe(Effect.scoped)
  )
})

if (!PostgresServer.installed) it.skip(`PostgreSQL: ${PostgresServer.missing}`, () => {})
if (!RedisServer.installed) it.skip(`Redis: ${RedisServer.missing}`, () => {})
