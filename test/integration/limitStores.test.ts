import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, RateLimit, RateLimitStore, ResilienceEvent } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Fiber, Layer, Stream } from "effect"
import { Redis } from "effect/persistence"
import { conforms } from "../support/limitStores.ts"
import * as RedisServer from "../support/redisServer.ts"

const request = LlmRequest.make({ prompt: "Hi" })

describe.skipIf(!RedisServer.installed)("with a server", () => {
  const port = RedisServer.duringTests()

  const connected = Layer.unwrap(
    Effect.sync(() => Layer.fresh(NodeRedis.layer({ socket: { port: port(), host: "127.0.0.1" } })))
  )
  const redis = Layer.fresh(RateLimitStore.layerRedis()).pipe(Layer.provide(connected))

  conforms({ name: "Redis", layer: redis, runs: 40 })

  it.live("two processes that name the same key share its limit, whatever their clocks say", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.answer("ok")] })
      // Two connections, as two processes have them.
      const guarded = Effect.flatMap(Layer.build(redis), (context) =>
        Effect.provide(
          RateLimit.policyStored({ key: "shared", requestsPerMinute: 3, storeWithin: "10 seconds" })(provider),
          context
        )
      )
      const [one, two] = yield* Effect.all([guarded, guarded])
      const outcomes = yield* Effect.forEach([one, two, one, two, one], (self) =>
        Effect.match(self.generate(request), {
          onSuccess: ({ text }) => text,
          onFailure: (error) => error._tag
        })
      )

      assert.deepStrictEqual(outcomes, ["ok", "ok", "ok", "LlmUnavailable", "LlmUnavailable"])
      assert.deepStrictEqual((yield* two.status)[0]?.limits, { requests: { limit: 3, remaining: 0 } })
    }).pipe(Effect.scoped)
  )

  it.live("forgets what is full again", () =>
    Effect.gen(function* () {
      const store = yield* RateLimitStore.RateLimitStore
      yield* store.take("gone", [{ name: "requests", amount: 1, perMinute: 6 }], 0)
      const { send } = yield* Redis.Redis
      const ttl = yield* send<number>("PTTL", "llm-resilience:limits:gone")
      assert.isTrue(ttl > 0 && ttl <= 10_000, `${ttl}`)

      yield* store.tell("gone", "told.requests", { limit: 9, remaining: 3, resetMillis: 5000 })
      const later = yield* send<number>("PTTL", "llm-resilience:limits:gone")
      assert.isTrue(later > 3_600_000 && later <= 3_605_000, `${later}`)
    }).pipe(Effect.provide(Layer.provideMerge(RateLimitStore.layerRedis(), connected)), Effect.scoped)
  )

  it.live("lets calls pass, and says so, when the server is gone", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const seen: Array<string> = []
      const listening = yield* Effect.forkChild(
        Stream.runForEach(hub.stream, (event) =>
          Effect.sync(() => seen.push(event._tag === "LimitStoreFailed" ? event.operation : event._tag))
        ),
        { startImmediately: true }
      )
      const server = yield* RedisServer.make
      const store = RateLimitStore.layerRedis().pipe(
        Layer.provide(
          Layer.fresh(
            NodeRedis.layer({
              disableOfflineQueue: true,
              socket: { port: server.port, host: "127.0.0.1", reconnectStrategy: false }
            })
          )
        ),
        Layer.fresh
      )
      yield* Effect.gen(function* () {
        const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.answer("ok")] })
        const self = yield* RateLimit.policyStored({ requestsPerMinute: 1, storeWithin: "5 seconds" })(provider)
        yield* self.generate(request)
        assert.strictEqual((yield* Effect.flip(self.generate(request)))._tag, "LlmUnavailable")
        yield* server.stop
        assert.strictEqual((yield* self.generate(request)).text, "ok")
        assert.deepStrictEqual((yield* self.status)[0]?.limits, undefined)
      }).pipe(Effect.provide(store), Effect.provideService(ResilienceEvent.CurrentHub, hub))

      yield* hub.end
      yield* Fiber.join(listening)
      assert.deepStrictEqual(seen, ["take"])
    }).pipe(Effect.scoped)
  )
})
