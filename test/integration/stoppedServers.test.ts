import { NodeRedis } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import {
  CacheStore,
  DeferredQueue,
  DeferredStore,
  EmergencyCache,
  LlmRequest,
  LlmResilience,
  LlmResponse,
  Provider,
  RateLimit,
  RateLimitStore
} from "@llm-resilience/core"
import { Context, Duration, Effect, Fiber, Layer, Schedule } from "effect"
import { Persistence } from "effect/persistence"
import { newTable } from "../support/deferredStores.ts"
import * as PostgresServer from "../support/postgresServer.ts"
import * as RedisServer from "../support/redisServer.ts"

interface Server {
  readonly port: number
  readonly pauses: (duration: Duration.Input) => Effect.Effect<void>
}

const model = Provider.make({
  id: "model",
  model: "m",
  generate: () => Effect.as(Effect.sleep("20 millis"), { content: LlmResponse.textContent("so it is") })
})

/** Two processes accept and work off, while their server stands still for longer than a lease. */
const outlives = Effect.fnUntraced(function* <E>(
  server: Server,
  layer: (port: number) => Layer.Layer<DeferredStore.DeferredStore, E>
) {
  const told = new Set<string>()
  const make = DeferredQueue.make({
    lease: "3 seconds",
    storeWithin: "500 millis",
    pollInterval: "100 millis",
    every: 0,
    onSettled: ({ ticket }) => Effect.sync(() => void told.add(ticket))
  })
  const process = Effect.flatMap(Layer.build(layer(server.port)), (context) =>
    Effect.provideService(make, DeferredStore.DeferredStore, Context.get(context, DeferredStore.DeferredStore))
  )
  const queues = yield* Effect.all([process, process])
  const [queue] = queues
  const workers = yield* Effect.forEach(queues, ({ workOff }) => Effect.forkChild(workOff(model)))
  let longest = 0
  const inTime = <A, E3>(effect: Effect.Effect<A, E3>) =>
    Effect.flatMap(Effect.timed(Effect.result(effect)), ([took, result]) => {
      longest = Math.max(longest, Duration.toMillis(took))
      return Effect.fromResult(result)
    })
  const again = <A, E3>(effect: Effect.Effect<A, E3>) =>
    Effect.retry(effect, { schedule: Schedule.spaced("100 millis") })
  const user = (key: string) =>
    Effect.gen(function* () {
      const ticket = yield* again(inTime(queue.accept(LlmRequest.make({ prompt: key, mayWait: true }), { key })))
      yield* again(inTime(queue.status(ticket)))
      const end = yield* again(queue.await(ticket))
      assert.strictEqual(end._tag, "Answered")
      return ticket
    })
  const users = yield* Effect.forkChild(
    Effect.forEach(
      Array.from({ length: 100 }, (_, index) => index),
      (index) => Effect.delay(user(`${index}`), index * 80),
      { concurrency: "unbounded" }
    )
  )
  yield* Effect.sleep("1 second")
  yield* server.pauses("5 seconds")

  const tickets = yield* Effect.timeout(Fiber.join(users), "30 seconds")
  assert.strictEqual(new Set(tickets).size, 100)
  assert.isBelow(longest, 1500)
  while (told.size < 100) yield* Effect.sleep("50 millis")
  assert.sameMembers(Array.from(told), tickets)
  assert.deepStrictEqual(yield* queue.size, { queued: 0, running: 0 })

  // Whoever stops while the server stands still does not wait for it.
  const pausing = yield* Effect.forkChild(server.pauses("10 seconds"), { startImmediately: true })
  yield* Effect.sleep("200 millis")
  const [stopping] = yield* Effect.timed(Fiber.interruptAll(workers))
  assert.isBelow(Duration.toMillis(stopping), 3000)
  yield* Fiber.interrupt(pausing)
}, Effect.scoped)

/** Calls whose rate limit and cache are in a Redis that stands still for a while. */
const callsThrough = Effect.fnUntraced(function* (server: Server) {
  const redis = NodeRedis.layer({ disableOfflineQueue: true, socket: { port: server.port, host: "127.0.0.1" } })
  const stores = Layer.mergeAll(
    RateLimitStore.layerRedis(),
    EmergencyCache.layer().pipe(
      Layer.provide(CacheStore.layerPersistence()),
      Layer.provide(Persistence.layerBackingRedis)
    )
  )
  const context = yield* Layer.build(Layer.provide(stores, Layer.fresh(redis)))
  const provider = yield* Effect.provide(RateLimit.policyStored({ requestsPerMinute: 20, maxWait: 0 })(model), context)
  const resilience = yield* LlmResilience.make({
    steps: [{ provider }],
    around: EmergencyCache.policy({ mode: "read-through" })
  }).pipe(Effect.provide(context))
  const ask = (prompt: string) => Effect.timed(resilience.generate(LlmRequest.make({ prompt })))
  yield* ask("before")
  const pausing = yield* Effect.forkChild(server.pauses("3 seconds"), { startImmediately: true })
  for (let index = 0; pausing.pollUnsafe() === undefined; index++) {
    const [took] = yield* ask(`${index}`)
    // At most what looking into the cache and asking the rate limit may take.
    assert.isBelow(Duration.toMillis(took), 1000)
    yield* Effect.sleep("100 millis")
  }
  // The cache and the limit are left alone for ten seconds, and are what they were.
  yield* Effect.sleep("11 seconds")
  const [, again] = yield* ask("before")
  assert.strictEqual(again.served.from, "cache")
  const limited = Effect.forEach(
    Array.from({ length: 21 }, (_, index) => index),
    (index) => ask(`after ${index}`)
  )
  assert.strictEqual((yield* Effect.flip(limited))._tag, "LlmUnavailable")
}, Effect.scoped)

if (PostgresServer.installed)
  it.live("a PostgreSQL that stands still for a while loses nothing, and keeps nobody waiting", () =>
    Effect.flatMap(PostgresServer.make, (server) => {
      const table = newTable()
      return outlives(server, (port) =>
        DeferredStore.layerSql({ table }).pipe(Layer.provide(PostgresServer.client(port, 4)), Layer.fresh)
      )
    }).pipe(Effect.scoped)
  )
else it.skip(`PostgreSQL: ${PostgresServer.missing}`, () => {})

if (RedisServer.installed)
  it.live("a Redis that stands still for a while loses nothing, and keeps nobody waiting", () =>
    Effect.flatMap(RedisServer.make, (server) =>
      outlives(server, (port) =>
        DeferredStore.layerRedis().pipe(
          Layer.provide(
            Layer.fresh(NodeRedis.layer({ disableOfflineQueue: true, socket: { port, host: "127.0.0.1" } }))
          ),
          Layer.fresh
        )
      )
    ).pipe(Effect.scoped)
  )
else it.skip(`Redis: ${RedisServer.missing}`, () => {})

it.live.skipIf(!RedisServer.installed)("a Redis that stands still for a while holds up no call", () =>
  Effect.flatMap(RedisServer.make, callsThrough).pipe(Effect.scoped)
)
