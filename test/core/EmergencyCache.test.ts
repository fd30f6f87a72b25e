import { assert, describe, it } from "@effect/vitest"
import {
  CacheKey,
  CacheStore,
  EmergencyCache,
  LlmRequest,
  LlmResilience,
  LlmResponse,
  LlmUnavailable,
  Provider,
  type ResilienceEvent,
  SimilarAnswers
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { KeyValueStore, Persistence } from "effect/persistence"
import { TestClock } from "effect/testing"
import { broken, brokenStores, conforms, local, survives } from "../support/cacheStores.ts"

const down = ScriptedProvider.fail("QuotaExhausted")

/** A chain of one scripted step with the cache around it. */
const chain = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: EmergencyCache.PolicyOptions) {
  const provider = yield* ScriptedProvider.make({ id: "p", model: "m", script })
  const resilience = yield* LlmResilience.make({
    steps: [{ provider, policy: LlmResilience.standard({ retry: "off", cooldown: "off", circuitBreaker: "off" }) }],
    around: EmergencyCache.policy(options)
  })
  const events: Array<ResilienceEvent.ResilienceEvent> = []
  yield* Effect.forkScoped(
    Stream.runForEach(resilience.events, (event) => Effect.sync(() => events.push(event))),
    { startImmediately: true }
  )
  yield* settle
  return {
    provider,
    resilience,
    events,
    generate: (input: LlmRequest.Input) => Effect.onExit(resilience.generate(LlmRequest.make(input)), () => settle),
    stream: (input: LlmRequest.Input) => resilience.stream(LlmRequest.make(input))
  }
})

/** Lets what happens in the background happen. */
const settle = Effect.forEach(Array.from({ length: 30 }), () => Effect.yieldNow, { discard: true })

const tagsOf = (events: ReadonlyArray<ResilienceEvent.ResilienceEvent>) =>
  events.flatMap((event) => (event._tag.startsWith("Cache") ? [event._tag] : []))

const textOf = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) =>
  parts.reduce((text, part) => (part.type === "text-delta" ? text + part.delta : text), "")

const servedOf = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) =>
  parts.find((part) => part.type === "served")?.served

const memory = (options?: EmergencyCache.Options & CacheStore.Options) =>
  Effect.provide(EmergencyCache.layerMemory(options))

describe("EmergencyCache", () => {
  it.effect("serves a stored answer when nobody can answer, and says so", () =>
    Effect.gen(function* () {
      const { events, generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
      const first = yield* generate({ prompt: "Capital?" })
      yield* TestClock.adjust("10 minutes")
      const second = yield* generate({ prompt: "Capital?" })

      assert.strictEqual(first.served.from, "provider")
      assert.strictEqual(second.text, "Paris.")
      assert.deepStrictEqual(second.content, first.content)
      const { age, attempts, notice, ...rest } = second.served
      assert.deepStrictEqual(rest, {
        provider: "p",
        model: "m",
        from: "cache",
        match: "exact",
        similarity: 1,
        stale: false
      })
      assert.deepStrictEqual(age, Duration.minutes(10))
      assert.deepStrictEqual(
        attempts.map((attempt) => attempt._tag),
        ["Failed"]
      )
      assert.strictEqual(notice?.message, "The service is unavailable. This is an earlier answer, from 10 minutes ago.")
      assert.deepStrictEqual(tagsOf(events), ["CacheStored", "CacheHit"])
      assert.strictEqual(events.at(-1)?._tag, "RequestAnswered")
    }).pipe(memory())
  )

  it.effect("fails as the chain failed when there is no stored answer", () =>
    Effect.gen(function* () {
      const { events, generate } = yield* chain([down])
      const error = yield* Effect.flip(generate({ prompt: "Capital?" }))

      assert.strictEqual(error._tag, "LlmUnavailable")
      assert.deepStrictEqual(tagsOf(events), ["CacheMissed"])
    }).pipe(memory())
  )

  it.effect("an error that would be the same everywhere is not covered up", () =>
    Effect.gen(function* () {
      const { generate } = yield* chain([ScriptedProvider.answer("Paris."), ScriptedProvider.fail("InvalidRequest")])
      yield* generate({ prompt: "Capital?" })
      const error = yield* Effect.flip(generate({ prompt: "Capital?" }))

      assert.strictEqual(error._tag === "APIError" ? error.reason : "", "InvalidRequest")
    }).pipe(memory())
  )

  it.effect("an answer is fresh for an hour and served for a day, and being served does not prolong it", () =>
    Effect.gen(function* () {
      const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
      const staleAfter = Effect.fnUntraced(function* (duration: Duration.Input) {
        yield* TestClock.adjust(duration)
        return (yield* generate({ prompt: "Capital?" })).served.stale
      })
      yield* generate({ prompt: "Capital?" })

      assert.isFalse(yield* staleAfter("59 minutes"))
      assert.isTrue(yield* staleAfter("1 minute"))
      assert.isTrue(yield* staleAfter(Duration.millis(23 * 3_600_000 - 1)))
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Effect.flip(generate({ prompt: "Capital?" })))._tag, "LlmUnavailable")
    }).pipe(memory())
  )

  it.effect("an answer that a store kept for too long is not served", () =>
    Effect.gen(function* () {
      const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
      yield* generate({ prompt: "Capital?" })
      yield* TestClock.adjust("24 hours")

      assert.strictEqual((yield* Effect.flip(generate({ prompt: "Capital?" })))._tag, "LlmUnavailable")
    }).pipe(
      Effect.scoped,
      Effect.provide(
        EmergencyCache.layer().pipe(
          Layer.provide(broken((store) => ({ set: (address, entry) => store.set(address, entry, Infinity) })))
        )
      )
    )
  )

  it.effect("a newer answer takes the place of an older one", () =>
    Effect.gen(function* () {
      const { generate } = yield* chain([ScriptedProvider.answer("Bonn."), ScriptedProvider.answer("Berlin."), down])
      yield* generate({ prompt: "Capital?" })
      yield* TestClock.adjust("23 hours")
      yield* generate({ prompt: "Capital?" })
      yield* TestClock.adjust("23 hours")

      assert.strictEqual((yield* generate({ prompt: "Capital?" })).text, "Berlin.")
    }).pipe(memory())
  )

  describe("streams", () => {
    it.effect("a stream is stored at its end and replays as a stream", () =>
      Effect.gen(function* () {
        const { generate, stream } = yield* chain([ScriptedProvider.tokens("The capital is Paris."), down])
        const first = yield* Stream.runCollect(stream({ prompt: "Capital?" }))
        yield* settle
        const second = yield* Stream.runCollect(stream({ prompt: "Capital?" }))
        const whole = yield* generate({ prompt: "Capital?" })

        assert.strictEqual(textOf(first), "The capital is Paris.")
        assert.strictEqual(textOf(second), "The capital is Paris.")
        assert.strictEqual(whole.text, "The capital is Paris.")
        assert.strictEqual(second[0]?.type, "served")
        assert.strictEqual(servedOf(second)?.from, "cache")
        assert.strictEqual(servedOf(second)?.attempts.length, 1)
        assert.strictEqual(second.at(-1)?.type, "finish")
      }).pipe(memory())
    )

    it.effect("a stream that breaks or is left is not stored", () =>
      Effect.gen(function* () {
        const { provider, stream } = yield* chain([ScriptedProvider.stream(["The capital", ScriptedProvider.cut])])
        const broken = yield* Stream.runCollect(stream({ prompt: "Capital?" })).pipe(Effect.exit)
        yield* provider.setScript([ScriptedProvider.tokens("The capital is Paris.")])
        yield* stream({ prompt: "Capital?" }).pipe(Stream.take(4), Stream.runDrain)
        yield* settle
        const { statistics } = yield* EmergencyCache.EmergencyCache

        assert.isTrue(Exit.isFailure(broken))
        assert.strictEqual((yield* statistics).stored, 0)
      }).pipe(memory())
    )

    it.effect("a stream that breaks after its first content is not followed by a stored answer", () =>
      Effect.gen(function* () {
        const { stream } = yield* chain((index) =>
          index === 0 ? ScriptedProvider.tokens("Paris.") : ScriptedProvider.stream(["Lyon", ScriptedProvider.cut])
        )
        yield* Stream.runDrain(stream({ prompt: "Capital?" }))
        yield* settle
        const seen: Array<LlmResponse.LlmStreamPart> = []
        const exit = yield* stream({ prompt: "Capital?" }).pipe(
          Stream.runForEach((part) => Effect.sync(() => seen.push(part))),
          Effect.exit
        )

        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(textOf(seen), "Lyon")
      }).pipe(memory())
    )
  })

  it.effect("a stream is not followed by a stored answer, whatever error it ends with", () =>
    Effect.gen(function* () {
      const request = LlmRequest.make({ prompt: "Capital?" })
      let calls = 0
      const self = yield* EmergencyCache.policy()(
        Provider.make({
          id: "p",
          model: "m",
          stream: () => {
            const text: Stream.Stream<LlmResponse.LlmStreamPart> = Stream.make(
              { type: "text-start", id: "1" },
              { type: "text-delta", id: "1", delta: "Paris." },
              { type: "text-end", id: "1" }
            )
            const end: Stream.Stream<LlmResponse.LlmStreamPart, LlmUnavailable.LlmUnavailable> =
              calls++ === 0
                ? Stream.succeed({ type: "finish", reason: "stop", usage: LlmResponse.unknownUsage })
                : Stream.fail(LlmUnavailable.make([]))
            return Stream.concat(text, end)
          }
        })
      )
      yield* Stream.runDrain(self.stream(request))
      yield* settle
      const seen: Array<LlmResponse.LlmStreamPart> = []
      const exit = yield* self.stream(request).pipe(
        Stream.runForEach((part) => Effect.sync(() => seen.push(part))),
        Effect.exit
      )

      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(textOf(seen), "Paris.")
    }).pipe(Effect.scoped, memory())
  )

  describe("what is not stored", () => {
    const cases: ReadonlyArray<readonly [string, ScriptedProvider.Step, Partial<LlmRequest.Input>?]> = [
      ["truncated", ScriptedProvider.answer("Once upon", { finish: "length" })],
      ["filtered", ScriptedProvider.answer("Once upon", { finish: "content-filter" })],
      ["refused", ScriptedProvider.answer("I'm sorry, but I can't help with that request.")],
      ["empty", ScriptedProvider.answer("   ")],
      ["looping", ScriptedProvider.answer("I am stuck. ".repeat(1000))],
      ["of an unknown end", ScriptedProvider.answer("Paris.", { finish: "unknown" })],
      ["marked as not to be cached", ScriptedProvider.answer("Paris."), { mayCache: false }],
      [
        "malformed JSON",
        ScriptedProvider.answer("Paris."),
        { responseFormat: { type: "json", objectName: "city", schema: Schema.Struct({ city: Schema.String }) } }
      ]
    ]
    for (const [name, step, input] of cases) {
      it.effect(`an answer that is ${name}`, () =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ script: [step] })
          const self = yield* EmergencyCache.policy()(provider)
          const request = LlmRequest.make({ prompt: "Tell", ...input })
          yield* self.generate(request)
          yield* settle
          yield* Stream.runDrain(self.stream(request))
          yield* settle
          const { statistics } = yield* EmergencyCache.EmergencyCache

          const { entries, stored } = yield* statistics
          assert.deepStrictEqual({ entries, stored }, { entries: 0, stored: 0 })
        }).pipe(Effect.scoped, memory())
      )
    }

    const tools = [Tool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })]
    const call: ScriptedProvider.Step = {
      _tag: "Answer",
      content: [
        { type: "tool-call", id: "1", name: "weather", params: { city: "Rome" } },
        { type: "finish", reason: "tool-calls", usage: LlmResponse.unknownUsage }
      ],
      limits: undefined
    }

    it.effect("tool calls, unless asked for", () =>
      Effect.gen(function* () {
        const { generate } = yield* chain([call, down])
        yield* generate({ prompt: "Weather?", tools })
        assert.strictEqual((yield* Effect.flip(generate({ prompt: "Weather?", tools })))._tag, "LlmUnavailable")
      }).pipe(memory())
    )

    it.effect("tool calls are stored when asked for", () =>
      Effect.gen(function* () {
        const { generate } = yield* chain([call, down])
        yield* generate({ prompt: "Weather?", tools })
        assert.strictEqual((yield* generate({ prompt: "Weather?", tools })).toolCalls.length, 1)
      }).pipe(memory({ toolCalls: "store" }))
    )

    it.effect("what came from the cache", () =>
      Effect.gen(function* () {
        const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("Paris."), down] })
        const resilience = yield* LlmResilience.make({
          steps: [{ provider }],
          around: (self) =>
            Effect.flatMap(EmergencyCache.policy()(self), EmergencyCache.policy({ mode: "read-through" }))
        })
        const { statistics } = yield* EmergencyCache.EmergencyCache
        yield* resilience.generate(LlmRequest.make({ prompt: "Capital?" }))
        yield* settle
        const { stored } = yield* statistics
        yield* TestClock.adjust("2 hours")
        yield* resilience.generate(LlmRequest.make({ prompt: "Capital?" }))
        yield* settle

        assert.strictEqual((yield* statistics).stored, stored)
      }).pipe(Effect.scoped, memory())
    )
  })

  describe("modes", () => {
    it.effect("read-through serves a fresh answer without asking, and a stale one only in an emergency", () =>
      Effect.gen(function* () {
        const { generate, provider, stream } = yield* chain(
          [ScriptedProvider.answer("one"), ScriptedProvider.answer("two"), down],
          { mode: "read-through" }
        )
        yield* generate({ prompt: "?" })
        const fresh = yield* generate({ prompt: "?" })
        const streamed = yield* Stream.runCollect(stream({ prompt: "?" }))
        assert.strictEqual(yield* provider.count, 1)
        assert.deepStrictEqual([fresh.text, textOf(streamed)], ["one", "one"])
        assert.strictEqual(fresh.served.notice?.message, "This is an earlier answer, from 1 second ago.")

        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* generate({ prompt: "?" })).text, "two")

        yield* TestClock.adjust("1 hour")
        const stale = yield* generate({ prompt: "?" })
        assert.deepStrictEqual([stale.text, stale.served.stale, yield* provider.count], ["two", true, 3])
      }).pipe(memory())
    )

    for (const method of ["generate", "stream"] as const) {
      it.effect(`stale-if-slow takes the place of a slow answer (${method})`, () =>
        Effect.gen(function* () {
          const made = yield* chain(
            [ScriptedProvider.answer("one"), ScriptedProvider.delay("20 seconds", ScriptedProvider.answer("two"))],
            { mode: "stale-if-slow", slowAfter: "3 seconds" }
          )
          const ask = (prompt: string) =>
            method === "generate"
              ? Effect.map(made.generate({ prompt }), ({ served, text }) => ({ served, text }))
              : Effect.map(Stream.runCollect(made.stream({ prompt })), (parts) => ({
                  served: servedOf(parts),
                  text: textOf(parts)
                }))
          yield* ask("known")
          yield* settle
          const known = yield* Effect.forkChild(ask("known"), { startImmediately: true })
          const unknown = yield* Effect.forkChild(ask("unknown"), { startImmediately: true })
          yield* TestClock.adjust("2999 millis")
          assert.isUndefined(known.pollUnsafe())

          yield* TestClock.adjust("1 millis")
          const { served, text } = yield* Fiber.join(known)
          yield* settle
          assert.deepStrictEqual([text, served?.from, served?.notice?._tag], ["one", "cache", "Cached"])
          assert.strictEqual(yield* made.provider.running, 1)

          yield* TestClock.adjust("17 seconds")
          assert.strictEqual((yield* Fiber.join(unknown)).text, "two")
          assert.strictEqual(yield* made.provider.running, 0)
        }).pipe(memory())
      )

      it.effect(`stale-if-slow aborts the upstream when the caller leaves (${method})`, () =>
        Effect.gen(function* () {
          const made = yield* chain([{ _tag: "Hang" }], { mode: "stale-if-slow", slowAfter: "3 seconds" })
          const input = { prompt: "?" }
          const call = method === "generate" ? Effect.asVoid(made.generate(input)) : Stream.runDrain(made.stream(input))
          const fiber = yield* Effect.forkChild(call, { startImmediately: true })
          yield* TestClock.adjust("1 second")
          assert.strictEqual(yield* made.provider.running, 1)

          yield* Fiber.interrupt(fiber)
          assert.strictEqual(yield* made.provider.running, 0)
        }).pipe(memory())
      )
    }

    it.effect("as a step it serves nothing while another step may still answer", () =>
      Effect.gen(function* () {
        const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("Paris."), down] })
        const inner = yield* LlmResilience.make({ steps: [{ provider }] })
        const self = yield* EmergencyCache.policy()(inner.provider)
        const request = LlmRequest.make({ prompt: "Capital?" })
        yield* self.generate(request)
        yield* settle

        assert.strictEqual((yield* Effect.flip(self.generate({ ...request, stepsLeft: 1 })))._tag, "LlmUnavailable")
        assert.strictEqual((yield* self.generate(request)).served.from, "cache")
      }).pipe(Effect.scoped, memory())
    )
  })

  describe("similar answers", () => {
    /** An index that finds whatever was remembered last, whoever asks. */
    const careless = (match: "canonical" | "similar") =>
      Layer.sync(SimilarAnswers.SimilarAnswers, () => {
        let last: string | undefined
        return SimilarAnswers.SimilarAnswers.of({
          remember: (_scope, _question, key) => Effect.sync(() => void (last = key)),
          find: () =>
            Effect.sync(() =>
              Option.map(Option.fromUndefinedOr(last), (key) => ({
                key,
                match,
                similarity: 0.93,
                question: "the last"
              }))
            ),
          forget: () => Effect.void,
          statistics: Effect.never
        })
      })
    const withIndex = (match: "canonical" | "similar") =>
      Effect.provide(EmergencyCache.layerMemory().pipe(Layer.provide(careless(match))))

    it.effect("are served after an exact miss, marked as such", () =>
      Effect.gen(function* () {
        const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
        yield* generate({ prompt: "Capital of France?" })
        const { served, text } = yield* generate({ prompt: "France's capital?" })

        assert.deepStrictEqual([text, served.match, served.similarity], ["Paris.", "similar", 0.93])
        assert.notProperty(served, "question")
      }).pipe(withIndex("similar"))
    )

    it.effect("tell the question that was answered only where that is wanted", () =>
      Effect.gen(function* () {
        const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down], { question: "tell" })
        yield* generate({ prompt: "Capital of France?" })

        assert.strictEqual((yield* generate({ prompt: "France's capital?" })).served.question, "the last")
        assert.notProperty((yield* generate({ prompt: "Capital of France?" })).served, "question")
      }).pipe(withIndex("similar"))
    )

    it.effect("are not served to another scope, whatever the index says", () =>
      Effect.gen(function* () {
        const { events, generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
        yield* generate({ prompt: "Capital of France?", scope: "acme", subject: "ann" })
        for (const input of [
          { scope: "umbrella" },
          { scope: "umbrella", subject: "ann" },
          { scope: "acme" },
          { scope: "acme", subject: "bob" },
          { scope: "acme", subject: "ann", settings: { temperature: 1 } }
        ]) {
          const error = yield* Effect.flip(generate({ prompt: "France's capital?", ...input }))
          assert.strictEqual(error._tag, "LlmUnavailable")
        }
        yield* settle
        assert.isFalse(events.some((event) => event._tag === "CacheHit"))

        const mine = yield* generate({ prompt: "Capital of France?", scope: "acme", subject: "ann" })
        assert.strictEqual(mine.served.from, "cache")
      }).pipe(withIndex("similar"))
    )

    it.effect("are not served when the request or the policy wants closer ones", () =>
      Effect.gen(function* () {
        const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down], { match: "canonical" })
        yield* generate({ prompt: "Capital of France?" })

        const asked: ReadonlyArray<Partial<LlmRequest.Input>> = [{}, { cacheMatch: "exact" }, { cacheMatch: "similar" }]
        for (const input of asked) {
          assert.isTrue(Exit.isFailure(yield* Effect.exit(generate({ prompt: "France's capital?", ...input }))))
        }
      }).pipe(withIndex("similar"))
    )

    it.effect("are not served to requests with tools or a schema, unless they ask", () =>
      Effect.gen(function* () {
        const tools = [Tool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })]
        const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
        yield* generate({ prompt: "Capital of France?", tools })

        assert.isTrue(Exit.isFailure(yield* Effect.exit(generate({ prompt: "France's capital?", tools }))))
        const asked = yield* generate({ prompt: "France's capital?", tools, cacheMatch: "canonical" })
        assert.strictEqual(asked.served.match, "canonical")
      }).pipe(withIndex("canonical"))
    )
  })

  describe("a broken store", () => {
    for (const { layer, name } of brokenStores) {
      it.effect(`that ${name} never costs a model's answer`, () =>
        Effect.gen(function* () {
          for (const mode of ["if-unavailable", "read-through", "stale-if-slow"] as const) {
            const { events, generate, provider, stream } = yield* chain([ScriptedProvider.answer("Paris.")], { mode })
            const whole = yield* Effect.forkChild(generate({ prompt: "?" }), { startImmediately: true })
            yield* TestClock.adjust("500 millis")
            assert.strictEqual((yield* Fiber.join(whole)).text, "Paris.")
            const streamed = yield* Effect.forkChild(Stream.runCollect(stream({ prompt: "?" })), {
              startImmediately: true
            })
            yield* TestClock.adjust("500 millis")
            assert.strictEqual(textOf(yield* Fiber.join(streamed)), "Paris.")

            yield* provider.setScript([down])
            const failing = yield* Effect.forkChild(Effect.flip(generate({ prompt: "?" })), { startImmediately: true })
            yield* TestClock.adjust("500 millis")
            assert.strictEqual((yield* Fiber.join(failing))._tag, "LlmUnavailable")
            yield* TestClock.adjust("10 seconds")
            if (name !== "loses everything") assert.include(tagsOf(events), "CacheFailed")
          }
        }).pipe(Effect.scoped, Effect.provide(EmergencyCache.layer().pipe(Layer.provide(layer))))
      )
    }

    it.effect("is left alone after three failures, but asked in an emergency", () =>
      Effect.gen(function* () {
        const { events, generate, provider } = yield* chain([ScriptedProvider.answer("Paris.")], {
          mode: "read-through"
        })
        for (const prompt of ["1", "2", "3", "4"]) yield* generate({ prompt })
        const failures = () => tagsOf(events).filter((tag) => tag === "CacheFailed").length
        const before = failures()
        yield* generate({ prompt: "5" })
        assert.strictEqual(failures(), before)

        yield* provider.setScript([down])
        yield* Effect.flip(generate({ prompt: "6" }))
        yield* settle
        assert.strictEqual(failures(), before + 1)
      }).pipe(
        Effect.scoped,
        Effect.provide(
          EmergencyCache.layer().pipe(
            Layer.provide(
              broken(() => {
                const failure = new CacheStore.CacheStoreError({ operation: "get", cause: "ECONNREFUSED" })
                return { get: () => Effect.fail(failure), set: () => Effect.fail(failure) }
              })
            )
          )
        )
      )
    )

    it.effect("holds no more answers than may be written at once", () =>
      Effect.gen(function* () {
        const cache = yield* EmergencyCache.EmergencyCache
        const { generate } = yield* chain([ScriptedProvider.answer("Paris.")])
        for (let index = 0; index < 10; index++) yield* generate({ prompt: `${index}` })
        assert.strictEqual((yield* cache.statistics).dropped, 7)

        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* cache.statistics).failed, 3)
      }).pipe(
        Effect.scoped,
        Effect.provide(
          EmergencyCache.layer({ maxWriting: 3 }).pipe(Layer.provide(broken(() => ({ set: () => Effect.never }))))
        )
      )
    )

    it.effect("does not hold up whoever shuts down", () =>
      Effect.gen(function* () {
        let stopped = 0
        const layer = broken(() => ({
          set: () =>
            Effect.onInterrupt(Effect.never, () =>
              Effect.sync(() => {
                stopped++
              })
            )
        }))
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { generate } = yield* chain([ScriptedProvider.answer("Paris.")])
            yield* generate({ prompt: "1" })
            yield* generate({ prompt: "2" })
          }).pipe(Effect.provide(EmergencyCache.layer().pipe(Layer.provide(layer))))
        )
        yield* settle
        assert.strictEqual(stopped, 2)
      })
    )

    it.effect("an entry that cannot be decoded is removed", () =>
      Effect.gen(function* () {
        const { generate } = yield* chain([ScriptedProvider.answer("Paris."), down])
        const store = yield* CacheStore.CacheStore
        yield* generate({ prompt: "?" })
        assert.strictEqual((yield* store.statistics).entries, 1)
        yield* Effect.flip(generate({ prompt: "?" }))
        assert.strictEqual((yield* store.statistics).entries, 0)
      }).pipe(
        Effect.scoped,
        Effect.provide(
          Layer.provideMerge(
            EmergencyCache.layer(),
            broken((store) => ({
              set: (address, entry, at) => store.set(address, entry.replace('"v":1', '"v":0'), at)
            }))
          )
        )
      )
    )
  })

  for (const store of local) conforms(store)

  // What several layers share, as processes share a database.
  const backing = Effect.runSync(Effect.scoped(Layer.build(Persistence.layerBackingMemory)))
  survives({
    name: "a persistence",
    expires: "by the clock",
    layer: () => CacheStore.layerPersistence().pipe(Layer.provide(Layer.succeedContext(backing)))
  })
  const keyValueStore = Effect.runSync(Effect.scoped(Layer.build(KeyValueStore.layerMemory)))
  survives({
    name: "a key-value store",
    expires: "by the clock",
    layer: () => CacheStore.layerKeyValueStore().pipe(Layer.provide(Layer.succeedContext(keyValueStore)))
  })

  it.effect("does not take for broken what was read while it was being written", () =>
    Effect.gen(function* () {
      const address = { scope: "a".repeat(32), subject: "b".repeat(32), hash: "c".repeat(64) }
      const key = CacheKey.format(address)
      const texts = new Map<string, string>()
      const isWritten = yield* Deferred.make<void>()
      let reads = 0
      const files = KeyValueStore.make({
        // The reading of what is there begins before the writing and ends after it.
        get: (name) =>
          reads++ === 0 ? Effect.as(Deferred.await(isWritten), '{"expiresAt":') : Effect.sync(() => texts.get(name)),
        getUint8Array: () => Effect.undefined,
        set: (name, value) => Effect.sync(() => void texts.set(name, String(value))),
        remove: (name) => Effect.sync(() => void texts.delete(name)),
        clear: Effect.void,
        size: Effect.sync(() => texts.size),
        keys: Effect.succeed([`llm-resilience/cache/${key}`])
      })
      const store = Context.get(
        yield* Layer.build(
          CacheStore.layerKeyValueStore().pipe(Layer.provide(Layer.succeed(KeyValueStore.KeyValueStore, files)))
        ),
        CacheStore.CacheStore
      )
      yield* TestClock.adjust(1)
      yield* store.set(address, "an answer", Number.MAX_SAFE_INTEGER)
      yield* Deferred.succeed(isWritten, undefined)
      yield* TestClock.adjust(1)

      assert.strictEqual(yield* store.get(address), "an answer")
    })
  )

  it.effect("tells whoever removes something when it could not be removed", () =>
    Effect.gen(function* () {
      const cache = yield* EmergencyCache.EmergencyCache
      const error = yield* Effect.flip(cache.remove({ scope: "acme" }))

      assert.deepStrictEqual([error._tag, error.operation], ["CacheStoreError", "remove"])
    }).pipe(
      Effect.provide(
        EmergencyCache.layer().pipe(
          Layer.provide(CacheStore.layerPersistence()),
          Layer.provide(Layer.succeed(Persistence.BackingPersistence, { make: () => Effect.die("ECONNREFUSED") }))
        )
      )
    )
  )

  it("refuses options that make no sense", () => {
    assert.throws(() => CacheStore.layerMemory({ maxEntries: 0 }), RangeError)
    for (const options of [{ staleIfError: "8 days" }, { fresh: "2 days" }, { maxWriting: 0 }] as const) {
      const exit = Effect.runSyncExit(Effect.scoped(Layer.build(EmergencyCache.layerMemory(options))))
      assert.isTrue(Exit.isFailure(exit))
    }
  })
})
