/** What every store of the emergency cache must do, the stores without a server, and the ways in which a store can be broken. */
import { assert, describe, it } from "@effect/vitest"
import {
  type CacheKey,
  CacheStore,
  EmergencyCache,
  LlmRequest,
  LlmResilience,
  type LlmResponse,
  type Provider
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Effect, Layer, Redacted, Schema, type Scope } from "effect"
import { KeyValueStore, Persistence } from "effect/persistence"
import { TestClock } from "effect/testing"

/**
 * A kind of store. `expires` says whose time counts for what a store forgets by itself: that of the test, or that of a server.
 */
export interface Kind<E = never> {
  readonly name: string
  readonly layer: (options?: CacheStore.Options) => Layer.Layer<CacheStore.CacheStore, E>
  readonly expires: "by the clock" | "in real time"
  readonly runs?: number
}

/** Stores without a server. Each layer is a new, empty store. */
export const local: ReadonlyArray<Kind> = [
  { name: "memory", expires: "by the clock", layer: (options) => Layer.fresh(CacheStore.layerMemory(options)) },
  {
    name: "a key-value store",
    expires: "by the clock",
    layer: (options) =>
      CacheStore.layerKeyValueStore(options).pipe(Layer.provide(Layer.fresh(KeyValueStore.layerMemory)))
  },
  {
    name: "a persistence",
    expires: "by the clock",
    layer: (options) =>
      CacheStore.layerPersistence(options).pipe(Layer.provide(Layer.fresh(Persistence.layerBackingMemory)))
  }
]

const Call = Schema.Struct({
  prompt: Schema.Literals(["a", "b"]),
  scope: Schema.optional(Schema.Literals(["acme", "umbrella", ""])),
  subject: Schema.optional(Schema.Literals(["ann", "bob"])),
  settings: Schema.optional(Schema.Struct({ temperature: Schema.Literals([0, 1]) })),
  down: Schema.Boolean,
  remove: Schema.Boolean
})

const down = ScriptedProvider.fail("QuotaExhausted")
const step = (text: string | undefined) => [text === undefined ? down : ScriptedProvider.answer(text)]

/** A chain with the cache around it, whose calls return when their answer was stored. */
export const storing = Effect.fnUntraced(function* (options?: EmergencyCache.PolicyOptions) {
  const cache = yield* EmergencyCache.EmergencyCache
  const provider = yield* ScriptedProvider.make({ script: [down] })
  const { provider: chain } = yield* LlmResilience.make({
    steps: [{ provider, policy: LlmResilience.standard({ retry: "off", cooldown: "off", circuitBreaker: "off" }) }],
    around: EmergencyCache.policy({ modelGroup: "chat", ...options })
  })
  const ended = Effect.map(cache.statistics, (counts) => counts.stored + counts.failed + counts.rejected)
  const generate = (input: LlmRequest.Input): Effect.Effect<LlmResponse.LlmResponse, Provider.Failure> =>
    Effect.gen(function* () {
      const before = yield* ended
      const response = yield* chain.generate(LlmRequest.make(input))
      if (response.served.from === "provider") while ((yield* ended) === before) yield* aMoment
      return response
    })
  return { cache, generate, answering: (text: string | undefined) => provider.setScript(step(text)) }
})

// Servers and files take real time, which the clock of a test knows nothing of.
const aMoment = Effect.promise(() => new Promise((resume) => setImmediate(resume)))

/** Runs what every store must pass. */
export const conforms = <E>({ expires, layer, name, runs }: Kind<E>): void => {
  describe(`the emergency cache over ${name}`, () => {
    const provided = <A, E1>(
      effect: Effect.Effect<A, E1, EmergencyCache.EmergencyCache | CacheStore.CacheStore | Scope.Scope>
    ) => Effect.scoped(Effect.provide(effect, Layer.provideMerge(EmergencyCache.layer(), layer())))

    it.effect.prop(
      "no sequence of requests serves one scope's answer to another",
      {
        calls: Schema.Array(Call).check(Schema.isMaxLength(40)),
        mode: Schema.Literals(["if-unavailable", "read-through"])
      },
      ({ calls, mode }) =>
        provided(
          Effect.gen(function* () {
            const { answering, cache, generate } = yield* storing({ mode })
            for (const { down, remove, ...input } of calls) {
              // Each answer says for whom it was given.
              const { prompt, scope, settings, subject } = input
              const mine = `for ${JSON.stringify([scope ?? null, subject ?? null, settings ?? null, prompt])}`
              yield* answering(down ? undefined : mine)
              const found = yield* Effect.option(generate(input))
              if (found._tag === "Some") assert.strictEqual(found.value.text, mine)
              else assert.isTrue(down)
              if (remove) yield* cache.remove({ scope, subject })
            }
          })
        ),
      { arbitrary: { runs: runs ?? 100 } }
    )

    it.effect("removes by scope, by subject and by key", () =>
      provided(
        Effect.gen(function* () {
          const { answering, cache, generate } = yield* storing()
          const inputs: ReadonlyArray<LlmRequest.Input> = [
            { prompt: "?" },
            { prompt: "?", scope: "acme" },
            { prompt: "!", scope: "acme" },
            { prompt: "?", scope: "acme", subject: "ann" },
            { prompt: "?", scope: "acme", subject: "bob" },
            { prompt: "?", scope: "umbrella" }
          ]
          yield* answering("Paris.")
          for (const input of inputs) yield* generate(input)
          yield* answering(undefined)
          const there = Effect.forEach(inputs, (input) => Effect.isSuccess(generate(input)))
          assert.deepStrictEqual(yield* there, [true, true, true, true, true, true])

          yield* cache.remove({ key: cache.keyOf(LlmRequest.make({ prompt: "?", scope: "acme" }), "chat") ?? "" })
          assert.deepStrictEqual(yield* there, [true, false, true, true, true, true])
          yield* cache.remove({ scope: "acme", subject: "ann" })
          assert.deepStrictEqual(yield* there, [true, false, true, false, true, true])
          yield* cache.remove({ scope: "acme" })
          assert.deepStrictEqual(yield* there, [true, false, false, false, false, true])
          yield* cache.remove({ scope: undefined })
          assert.deepStrictEqual(yield* there, [false, false, false, false, false, true])

          // What is stored after a removal is there again.
          yield* TestClock.adjust("1 second")
          yield* answering("Paris.")
          yield* generate({ prompt: "?", scope: "acme", subject: "ann" })
          yield* answering(undefined)
          assert.deepStrictEqual(yield* there, [false, false, false, true, false, true])
        })
      )
    )

    const address = (scope: string, index: number): CacheKey.Address => ({
      scope: scope.repeat(32),
      subject: "0".repeat(32),
      hash: index.toString(16).padStart(64, "0")
    })

    it.effect("keeps any text as it is", () =>
      provided(
        Effect.gen(function* () {
          const store = yield* CacheStore.CacheStore
          for (const text of ["{}", "'; DROP TABLE x; --", '日本語 🙂 \n\t"\\', "x".repeat(100_000)]) {
            yield* store.set(address("d", 1), text, 1_000_000)
            assert.strictEqual(yield* store.get(address("d", 1)), text)
          }
          yield* store.remove(address("d", 1))
          assert.isUndefined(yield* store.get(address("d", 1)))
        })
      )
    )

    it.effect("forgets what expired", () =>
      provided(
        Effect.gen(function* () {
          const store = yield* CacheStore.CacheStore
          const now = yield* Clock.currentTimeMillis
          yield* store.set(address("c", 1), "entry", now + 500)
          assert.strictEqual(yield* store.get(address("c", 1)), "entry")
          assert.strictEqual((yield* store.statistics).entries, 1)

          yield* TestClock.adjust("500 millis")
          if (expires === "in real time") yield* TestClock.withLive(Effect.sleep("600 millis"))
          assert.isUndefined(yield* store.get(address("c", 1)))
          yield* TestClock.adjust("5 minutes")
          while ((yield* store.statistics).entries > 0) yield* aMoment
        })
      )
    )

    it.effect("one scope cannot evict another, and the least recently used goes first", () =>
      Effect.gen(function* () {
        const store = yield* CacheStore.CacheStore
        const at = 1_000_000
        yield* store.set(address("a", 1), "a", at)
        yield* store.set(address("a", 2), "a", at)
        for (let index = 0; index < 20; index++) yield* store.set(address("b", index), "b", at)
        yield* store.get(address("b", 16))
        yield* store.set(address("b", 20), "b", at)
        const there = (scope: string, length: number) =>
          Effect.map(
            Effect.forEach(
              Array.from({ length }, (_, index) => index),
              (index) => Effect.map(store.get(address(scope, index)), (entry) => (entry === undefined ? [] : [index]))
            ),
            (found) => found.flat()
          )

        assert.deepStrictEqual(yield* there("a", 3), [1, 2])
        assert.deepStrictEqual(yield* there("b", 21), [16, 18, 19, 20])
        const { entries, evicted } = yield* store.statistics
        assert.deepStrictEqual({ entries, evicted }, { entries: 6, evicted: 17 })

        yield* store.set(address("b", 30), "x".repeat(60_000), at)
        assert.isUndefined(yield* store.get(address("b", 30)))
        assert.strictEqual((yield* store.statistics).entries, 6)
      }).pipe(Effect.scoped, Effect.provide(layer({ maxEntries: 6, maxBytesPerScope: 100_000 })))
    )
  })
}

/** Stores what one layer stored, and asks through a second one, as after a restart or in another process. */
export const survives = <E>({ layer, name }: Kind<E>): void => {
  it.effect(`${name} keeps answers for other processes with the same secret, which may remove them`, () =>
    Effect.gen(function* () {
      const process = <A, E1>(
        secret: string,
        effect: Effect.Effect<A, E1, EmergencyCache.EmergencyCache | Scope.Scope>
      ) =>
        Effect.scoped(
          Effect.provide(
            effect,
            EmergencyCache.layer({ secret: Redacted.make(secret) }).pipe(Layer.provide(Layer.fresh(layer())))
          )
        )
      const ask = Effect.gen(function* () {
        const { generate } = yield* storing()
        return yield* Effect.option(generate({ prompt: "?" }))
      })
      yield* process(
        "the secret of all processes",
        Effect.gen(function* () {
          const { answering, generate } = yield* storing()
          yield* answering("Paris.")
          yield* generate({ prompt: "?" })
        })
      )
      const found = yield* process("the secret of all processes", ask)
      const other = yield* process("the secret of somebody else", ask)
      yield* process(
        "the secret of all processes",
        Effect.flatMap(EmergencyCache.EmergencyCache, (cache) => cache.remove({ scope: undefined }))
      )
      const removed = yield* process("the secret of all processes", ask)

      assert.strictEqual(found._tag === "Some" ? found.value.text : "", "Paris.")
      assert.strictEqual(other._tag, "None")
      assert.strictEqual(removed._tag, "None")
    })
  )
}

const fullDisk = new CacheStore.CacheStoreError({ operation: "set", cause: "ENOSPC: no space left on device" })
const refused = new CacheStore.CacheStoreError({ operation: "get", cause: "ECONNREFUSED" })

/** Changes a store that works into one that does not. */
export const broken = (
  change: (store: CacheStore.CacheStore["Service"]) => Partial<CacheStore.CacheStore["Service"]>
): Layer.Layer<CacheStore.CacheStore> =>
  Layer.effect(
    CacheStore.CacheStore,
    Effect.map(CacheStore.CacheStore, (store) => ({ ...store, ...change(store) }))
  ).pipe(Layer.provide(Layer.fresh(CacheStore.layerMemory())))

const throwing = (): never => {
  throw new Error("a store that throws")
}

const unreachable = Effect.fail(
  new KeyValueStore.KeyValueStoreError({ method: "any", message: "ECONNREFUSED", cause: "ECONNREFUSED" })
)

/** Every way of being broken that a model's answer must survive. */
export const brokenStores: ReadonlyArray<{
  readonly name: string
  readonly layer: Layer.Layer<CacheStore.CacheStore>
}> = [
  { name: "fails", layer: broken(() => ({ get: () => Effect.fail(refused), set: () => Effect.fail(fullDisk) })) },
  { name: "dies", layer: broken(() => ({ get: () => Effect.die("get"), set: () => Effect.die("set") })) },
  { name: "throws", layer: broken(() => ({ get: throwing, set: throwing })) },
  { name: "hangs", layer: broken(() => ({ get: () => Effect.never, set: () => Effect.never })) },
  {
    name: "hangs and cannot be stopped",
    layer: broken(() => ({
      get: () => Effect.uninterruptible(Effect.delay(Effect.undefined, "1 hour")),
      set: () => Effect.uninterruptible(Effect.delay(Effect.succeed([]), "1 hour"))
    }))
  },
  { name: "has a full disk", layer: broken(() => ({ set: () => Effect.fail(fullDisk) })) },
  { name: "loses everything", layer: broken(() => ({ get: () => Effect.undefined })) },
  { name: "returns nonsense", layer: broken(() => ({ get: () => Effect.succeed('{"v":1,"content":[{}]}') })) },
  {
    name: "cuts what it stores",
    layer: broken((store) => ({ set: (address, entry, at) => store.set(address, entry.slice(0, -20), at) }))
  },
  {
    name: "is a key-value store that cannot be reached",
    layer: CacheStore.layerKeyValueStore().pipe(
      Layer.provide(
        Layer.succeed(
          KeyValueStore.KeyValueStore,
          KeyValueStore.make({
            get: () => unreachable,
            getUint8Array: () => unreachable,
            set: () => unreachable,
            remove: () => unreachable,
            clear: unreachable,
            size: unreachable,
            keys: unreachable
          })
        )
      )
    )
  },
  {
    name: "is a key-value store full of nonsense",
    layer: CacheStore.layerKeyValueStore().pipe(
      Layer.provide(
        Layer.effect(
          KeyValueStore.KeyValueStore,
          Effect.map(KeyValueStore.KeyValueStore, (store) => ({ ...store, get: () => Effect.succeed("nonsense") }))
        )
      ),
      Layer.provide(Layer.fresh(KeyValueStore.layerMemory))
    )
  },
  {
    name: "is a database that is not there",
    layer: CacheStore.layerPersistence().pipe(
      Layer.provide(Layer.succeed(Persistence.BackingPersistence, { make: () => Effect.die("ECONNREFUSED") }))
    )
  }
]
