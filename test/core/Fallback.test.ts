import { assert, describe, it } from "@effect/vitest"
import {
  Bulkhead,
  CircuitBreaker,
  Cooldown,
  Decision,
  Fallback,
  LlmRequest,
  type LlmResponse,
  LlmUnavailable,
  Policy,
  Provider,
  ResilienceEvent,
  Timeouts
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Scheduler, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })

const scripted = (id: string, ...script: ReadonlyArray<ScriptedProvider.Step>) =>
  ScriptedProvider.make({
    id,
    model: `${id}-model`,
    script: script.length === 0 ? [ScriptedProvider.answer(id)] : script
  })

const ends = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>) {
  const start = yield* Clock.currentTimeMillis
  const fiber = yield* Effect.forkChild(
    Effect.flatMap(Effect.exit(effect), (exit) =>
      Effect.map(Clock.currentTimeMillis, (at) => ({ exit, at: at - start }))
    )
  )
  yield* TestClock.adjust("1 hour")
  return yield* Fiber.join(fiber)
})

const read = (stream: Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure>) => {
  const parts: Array<LlmResponse.LlmStreamPart> = []
  return Effect.map(ends(Stream.runForEach(stream, (part) => Effect.sync(() => parts.push(part)))), ({ at, exit }) => ({
    at,
    exit,
    parts,
    text: parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join(""),
    shape: parts.map((part) => part.type)
  }))
}

const errorOf = <E>(exit: Exit.Exit<unknown, E>): E | undefined => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "Some" ? error.value : undefined
}

const story = (attempts: LlmResponse.Served["attempts"]): ReadonlyArray<string> =>
  attempts.map((attempt) =>
    attempt._tag === "Failed"
      ? `${attempt.provider}: ${attempt.error._tag === "APIError" ? attempt.error.reason : attempt.error._tag}`
      : `${attempt.provider}: ${attempt._tag === "Skipped" ? attempt.reason._tag : attempt._tag}`
  )

describe("Fallback", () => {
  it.effect("asks the first step and nobody else while it answers, and says nothing about it", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([scripted("a"), scripted("b")])
      const chain = yield* Fallback.make([a, b])
      const response = yield* chain.generate(request)

      assert.strictEqual(response.text, "a")
      assert.deepStrictEqual(response.served, { provider: "a", model: "a-model", from: "provider", attempts: [] })
      assert.strictEqual(yield* b.count, 0)
    })
  )

  it.effect("E06 turns to the next step without delay, and tells who failed and that a backup answered", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([scripted("a", ScriptedProvider.fail("Overloaded")), scripted("b")])
      const chain = yield* Fallback.make([a, b])
      const response = yield* chain.generate(request)

      assert.strictEqual(response.text, "b")
      assert.deepStrictEqual(story(response.served.attempts), ["a: Overloaded"])
      assert.strictEqual(response.served.notice?._tag, "BackupService")
    })
  )

  it.effect("K12 is not run when the caller leaves, and the abandoned step is released", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([scripted("a", ScriptedProvider.hang), scripted("b")])
      const chain = yield* Fallback.make([a, b])
      const fiber = yield* Effect.forkChild(chain.generate(request))
      yield* a.awaitCalls(1)
      yield* Fiber.interrupt(fiber)

      assert.strictEqual(yield* a.running, 0)
      assert.strictEqual(yield* b.count, 0)
    })
  )

  it.effect("treats a defect as a failure of that step, keeps its cause, and goes on", () =>
    Effect.gen(function* () {
      const bug = new Error("bug")
      const [a, b] = yield* Effect.all([scripted("a", ScriptedProvider.die(bug)), scripted("b")])
      const chain = yield* Fallback.make([a, b])
      const response = yield* chain.generate(request)

      assert.strictEqual(response.text, "b")
      const attempt = response.served.attempts[0]
      const error = attempt?._tag === "Failed" ? attempt.error : undefined
      assert.strictEqual(error?._tag === "APIError" ? error.cause : undefined, bug)
    })
  )

  it.effect("ends with the whole story, the soonest time to come back, and advice", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        scripted("a", ScriptedProvider.fail("RateLimited", { retryAfter: "90 seconds" })),
        scripted("b", ScriptedProvider.fail("Overloaded", { retryAfter: "4 minutes" }))
      ])
      const chain = yield* Fallback.make([a, b])
      const error = yield* Effect.flip(chain.generate(request))

      assert.instanceOf(error, LlmUnavailable.LlmUnavailable)
      assert.deepStrictEqual(story(error.attempts), ["a: RateLimited", "b: Overloaded"])
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(90))
      assert.strictEqual(error.suggestion, "Try again in 2 minutes.")
      assert.strictEqual(error.notice.message, "The service is temporarily unavailable. Please try again in 2 minutes.")
    })
  )

  describe("decides by the table", () => {
    it.effect("gives an invalid request up at once, unchanged", () =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([scripted("a", ScriptedProvider.fail("InvalidRequest")), scripted("b")])
        const chain = yield* Fallback.make([a, b])
        const error = yield* Effect.flip(chain.generate(request))

        assert.strictEqual(error._tag === "APIError" ? error.reason : error._tag, "InvalidRequest")
        assert.strictEqual(yield* b.count, 0)
      })
    )

    it.effect("does not route around a content policy unless asked to", () =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([scripted("a", ScriptedProvider.fail("ContentPolicy")), scripted("b")])
        const strict = yield* Fallback.make([a, b])
        const lenient = yield* Effect.provide(
          Fallback.make([a, b]),
          Decision.layer({ ContentPolicy: { fallOver: "yes" } })
        )

        assert.strictEqual((yield* Effect.flip(strict.generate(request)))._tag, "APIError")
        assert.strictEqual((yield* lenient.generate(request)).text, "b")
      })
    )

    it.effect("hands a request that is too long only to a window that is larger or unknown", () =>
      Effect.gen(function* () {
        const sized = (id: string, contextWindow: number | undefined, step: ScriptedProvider.Step) =>
          ScriptedProvider.make({ id, script: [step], capabilities: { contextWindow } })
        const tooLong = ScriptedProvider.fail("ContextLengthExceeded")
        const [a, b, c, d] = yield* Effect.all([
          sized("a", 8000, tooLong),
          sized("b", 8000, ScriptedProvider.answer("b")),
          sized("c", 16_000, tooLong),
          sized("d", undefined, ScriptedProvider.answer("d"))
        ])
        const chain = yield* Fallback.make([a, b, c, d])
        const response = yield* chain.generate(request)

        assert.strictEqual(response.text, "d")
        assert.deepStrictEqual(story(response.served.attempts), [
          "a: ContextLengthExceeded",
          "b: NotCapable",
          "c: ContextLengthExceeded"
        ])
        const small = yield* Fallback.make([a, b])
        const error = yield* Effect.flip(small.generate(request))
        assert.strictEqual(
          error._tag === "LlmUnavailable" ? error.suggestion : error._tag,
          "Ask for less: the request is too long for the models that are available."
        )
      })
    )
  })

  it.effect("skips a step that cannot do what the request needs, and never one whose abilities are unknown", () =>
    Effect.gen(function* () {
      const plain = yield* ScriptedProvider.make({
        id: "plain",
        script: [ScriptedProvider.answer("plain")],
        capabilities: { images: false }
      })
      const chain = yield* Fallback.make([plain, yield* scripted("b")])
      const withImage = LlmRequest.make({
        prompt: [{ role: "user", content: [{ type: "file", mediaType: "image/png", data: new Uint8Array([1]) }] }]
      })

      assert.strictEqual((yield* chain.generate(request)).text, "plain")
      assert.deepStrictEqual(story((yield* chain.generate(withImage)).served.attempts), ["plain: NotCapable"])
    })
  )

  it.effect("skips a step whose window the prompt certainly exceeds, and none that may hold it", () =>
    Effect.gen(function* () {
      const windows = (prompt: string) =>
        Effect.gen(function* () {
          const step = (id: string, contextWindow: number | undefined) =>
            ScriptedProvider.make({ id, script: [ScriptedProvider.answer("Hello")], capabilities: { contextWindow } })
          const [small, large, unknown] = [step("step-0", 100), step("step-1", 1000), step("step-2", undefined)]
          const chain = yield* Fallback.make([yield* small, yield* large, yield* unknown])
          return (yield* chain.generate(LlmRequest.make({ prompt }))).served.provider
        })

      assert.strictEqual(yield* windows("word ".repeat(100)), "step-0")
      assert.strictEqual(yield* windows("word ".repeat(101)), "step-1")
      assert.strictEqual(yield* windows("word ".repeat(1001)), "step-2")
      // Long runs of one character, and long words, may be few tokens.
      assert.strictEqual(yield* windows(" ".repeat(5000)), "step-0")
      assert.strictEqual(yield* windows("-".repeat(5000)), "step-0")
      assert.strictEqual(yield* windows("ab".repeat(400)), "step-0")
      assert.strictEqual(yield* windows("ab".repeat(405)), "step-1")
    })
  )

  it.effect("skips an open circuit without calling it, and comes back to a recovered first step at once", () =>
    Effect.gen(function* () {
      const down = yield* scripted("a", ScriptedProvider.fail("ServerError"), ScriptedProvider.answer("a"))
      const a = yield* CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })(down)
      const chain = yield* Fallback.make([a, yield* scripted("b")])
      yield* chain.generate(request)
      const skipped = yield* chain.generate(request)
      assert.deepStrictEqual(story(skipped.served.attempts), ["a: CircuitOpen"])
      assert.strictEqual(yield* down.count, 1)

      yield* TestClock.adjust("60 seconds")
      assert.strictEqual((yield* chain.generate(request)).text, "a")
    })
  )

  describe("and the deadline", () => {
    it.effect("leaves the fallback its share when the first step is silent", () =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([
          scripted("a", ScriptedProvider.hang),
          scripted("b", ScriptedProvider.delay("9 seconds", ScriptedProvider.answer("b")))
        ])
        const chain = yield* Fallback.make([a, b])
        const { at, exit } = yield* ends(chain.generate({ ...request, deadline: Duration.seconds(30) }))

        assert.strictEqual(Exit.isSuccess(exit) ? exit.value.text : undefined, "b")
        assert.strictEqual(at, 29_000)
      })
    )

    it.effect("is kept although nobody answers, and every step had its turn", () =>
      Effect.gen(function* () {
        const steps = yield* Effect.forEach(["a", "b", "c"], (id) => scripted(id, ScriptedProvider.hang))
        const [a, b, c] = steps
        assert.isTrue(a !== undefined && b !== undefined && c !== undefined)
        if (a === undefined || b === undefined || c === undefined) return
        const chain = yield* Fallback.make([a, b, c])
        const { at, exit } = yield* ends(chain.generate({ ...request, deadline: Duration.seconds(30) }))
        const error = errorOf(exit)

        assert.strictEqual(at, 30_000)
        assert.deepStrictEqual(error?._tag === "LlmUnavailable" ? story(error.attempts) : undefined, [
          "a: Timeout",
          "b: Timeout",
          "c: Timeout"
        ])
      })
    )

    it.effect("is kept although a step is deaf to interruption", () =>
      Effect.gen(function* () {
        const deaf = Provider.make({
          id: "deaf",
          model: "m",
          generate: () => Effect.uninterruptible(Effect.never),
          stream: () => Stream.fromEffect(Effect.uninterruptible(Effect.never))
        })
        const chain = yield* Fallback.make([deaf, yield* scripted("b")])
        const asked = { ...request, deadline: Duration.seconds(3) }

        assert.strictEqual((yield* ends(chain.generate(asked))).at, 2000)
        assert.strictEqual((yield* read(chain.stream(asked))).text, "b")
      })
    )

    it.effect("skips a step when too little time is left for it", () =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([
          scripted("a", ScriptedProvider.delay("9950 millis", ScriptedProvider.fail("ServerError"))),
          scripted("b")
        ])
        const chain = yield* Fallback.make([a, b], { share: 1 })
        const { exit } = yield* ends(chain.generate({ ...request, deadline: Duration.seconds(10) }))
        const error = errorOf(exit)

        assert.deepStrictEqual(error?._tag === "LlmUnavailable" ? story(error.attempts) : undefined, [
          "a: ServerError",
          "b: NoTimeLeft"
        ])
      })
    )

    it.effect("ends a stream that is still going, also where no timeouts were composed", () =>
      Effect.gen(function* () {
        const chain = yield* Fallback.make([
          yield* scripted("a", ScriptedProvider.stream(["Hel", ScriptedProvider.hang]))
        ])
        const { at, exit } = yield* read(chain.stream({ ...request, deadline: Duration.seconds(5) }))
        const error = errorOf(exit)

        assert.strictEqual(error?._tag === "Timeout" ? error.kind : undefined, "deadline")
        assert.strictEqual(at, 5000)
      })
    )

    it.effect("is kept although a step's timeout leaves it long to clean up", () =>
      Effect.gen(function* () {
        const slow = Provider.make({
          id: "slow",
          model: "m",
          generate: () => Effect.onInterrupt(Effect.never, () => Effect.sleep("1 hour"))
        })
        const chain = yield* Fallback.make([yield* Timeouts.policy({ attempt: "2 seconds" })(slow)])
        const { at, exit } = yield* ends(chain.generate({ ...request, deadline: Duration.seconds(5) }))
        const error = errorOf(exit)

        assert.strictEqual(at, 5000)
        assert.deepStrictEqual(error?._tag === "LlmUnavailable" ? story(error.attempts) : undefined, ["slow: Timeout"])
      })
    )

    it.effect("is kept although a policy of somebody else hangs", () =>
      Effect.gen(function* () {
        const hanging = Policy.make(() => ({ generate: () => Effect.never }))
        const self = yield* Policy.all([hanging, Timeouts.policy()])(yield* scripted("a"))
        const chain = yield* Fallback.make([self, yield* scripted("b")])
        const { at, exit } = yield* ends(chain.generate({ ...request, deadline: Duration.seconds(9) }))

        assert.strictEqual(Exit.isSuccess(exit) ? exit.value.text : undefined, "b")
        assert.strictEqual(at, 6000)
      })
    )

    it.effect("of an outer chain also holds in an inner one", () =>
      Effect.gen(function* () {
        const inner = yield* Fallback.make([yield* scripted("a", ScriptedProvider.hang)], { id: "inner" })
        const outer = yield* Fallback.make([inner, yield* scripted("b")])
        const { at, exit } = yield* ends(outer.generate({ ...request, deadline: Duration.seconds(30) }))

        assert.strictEqual(at, 20_000)
        assert.deepStrictEqual(Exit.isSuccess(exit) ? story(exit.value.served.attempts) : undefined, ["a: Timeout"])
      })
    )
  })

  describe("of streams", () => {
    it.effect("fails over freely before the first content, and the caller sees one start and one finish", () =>
      Effect.gen(function* () {
        const preamble = { type: "response-metadata" as const, id: "from a" }
        const [a, b] = yield* Effect.all([
          scripted("a", ScriptedProvider.stream([preamble, ScriptedProvider.fail("Overloaded")])),
          scripted("b", ScriptedProvider.tokens("one two"))
        ])
        const chain = yield* Fallback.make([a, b])
        const { exit, parts, shape, text } = yield* read(chain.stream(request))

        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(text, "one two")
        assert.strictEqual(shape[0], "served")
        assert.strictEqual(shape.filter((type) => type === "served").length, 1)
        assert.strictEqual(shape.filter((type) => type === "text-start").length, 1)
        assert.strictEqual(shape.filter((type) => type === "finish").length, 1)
        assert.isFalse(shape.includes("response-metadata"))
        const served = parts[0]?.type === "served" ? parts[0].served : undefined
        assert.deepStrictEqual(story(served?.attempts ?? []), ["a: Overloaded"])
        assert.strictEqual(served?.notice?._tag, "BackupService")
        assert.strictEqual(yield* a.running, 0)
      })
    )

    it.effect(
      "never starts a second answer after the first content when told not to: a cut ends with a typed error",
      () =>
        Effect.gen(function* () {
          const [a, b] = yield* Effect.all([
            scripted("a", ScriptedProvider.stream(["Hel", ScriptedProvider.cut])),
            scripted("b")
          ])
          const chain = yield* Fallback.make([a, b], { recovery: "fail" })
          const { exit, text } = yield* read(chain.stream(request))
          const error = errorOf(exit)

          assert.strictEqual(text, "Hel")
          assert.strictEqual(error?._tag === "APIError" ? error.reason : undefined, "StreamCut")
          assert.strictEqual(yield* b.count, 0)
        })
    )

    it.effect("takes a stream that ends without finish for cut, and an empty one for failed", () =>
      Effect.gen(function* () {
        const ending = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>) =>
          Provider.make({ id: "a", model: "m", stream: () => Stream.fromIterable(parts) })
        const b = yield* scripted("b")
        const unfinished = yield* Fallback.make([ending([{ type: "text-delta", id: "0", delta: "Hel" }]), b])
        const empty = yield* Fallback.make([ending([]), b])

        const cut = yield* read(unfinished.stream(request))
        const error = errorOf(cut.exit)
        assert.strictEqual(error?._tag === "APIError" ? error.reason : undefined, "StreamCut")
        assert.strictEqual((yield* read(empty.stream(request))).text, "b")
      })
    )

    it.effect("does not keep the reader from the first token: it arrives when the provider sends it", () =>
      Effect.gen(function* () {
        const chain = yield* Fallback.make([
          yield* scripted("a", ScriptedProvider.tokens("one two", { first: "2 seconds", every: "1 hour" }))
        ])
        const fiber = yield* Effect.forkChild(
          Effect.andThen(
            Stream.runHead(Stream.filter(chain.stream(request), (part) => part.type === "text-delta")),
            Clock.currentTimeMillis
          )
        )
        yield* TestClock.adjust("2 seconds")

        assert.strictEqual(yield* Fiber.join(fiber), 2000)
      })
    )

    it.effect("does not let a shared deadline cut a stream that has begun", () =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([
          scripted("a", ScriptedProvider.tokens("a b c d e", { every: "5 seconds" })),
          scripted("b")
        ])
        const chain = yield* Fallback.make([a, b])
        const { exit } = yield* read(chain.stream({ ...request, deadline: Duration.seconds(21) }))

        assert.isTrue(Exit.isSuccess(exit))
      })
    )

    it.effect("releases what the stream holds when the reader stops early", () =>
      Effect.gen(function* () {
        const a = yield* scripted("a", ScriptedProvider.tokens("one two three", { every: "1 second" }))
        const chain = yield* Fallback.make([a])
        yield* Stream.runDrain(Stream.take(chain.stream(request), 2))

        assert.strictEqual(yield* a.running, 0)
      })
    )
  })

  describe("never ejects everybody", () => {
    const allOpen = Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        scripted("a", ScriptedProvider.fail("ServerError"), ScriptedProvider.answer("a is back")),
        scripted("b", ScriptedProvider.fail("ServerError"), ScriptedProvider.answer("b is back"))
      ])
      const breaker = (openFor: Duration.Input) =>
        CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1), openFor })
      const chain = yield* Fallback.make([yield* breaker("60 seconds")(a), yield* breaker("30 seconds")(b)])
      yield* Effect.ignore(chain.generate(request))
      return { a, b, chain }
    })

    it.effect("asks the step that is back soonest when every step would be skipped", () =>
      Effect.gen(function* () {
        const { a, b, chain } = yield* allOpen
        const response = yield* chain.generate(request)

        assert.strictEqual(response.text, "b is back")
        assert.strictEqual(yield* a.count, 1)
        assert.strictEqual(yield* b.count, 2)
      })
    )

    it.effect("asks nobody as a last resort when the calls of the request are used up", () =>
      Effect.gen(function* () {
        const a = yield* scripted("a", ScriptedProvider.fail("ServerError"), ScriptedProvider.answer("a is back"))
        const innerChain = Provider.make({
          id: "inner chain",
          model: "m",
          generate: () => Effect.fail(LlmUnavailable.make([]))
        })
        const open = yield* CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })(a)
        yield* Effect.ignore(open.generate(request))
        const chain = yield* Fallback.make([open, innerChain])
        const once = { ...request, allowance: { left: 0 } }

        assert.strictEqual((yield* Effect.flip(chain.generate(once)))._tag, "LlmUnavailable")
        assert.strictEqual(yield* a.count, 1)
      })
    )

    it.effect("lets one call find out; all others fail at once with the soonest time to come back", () =>
      Effect.gen(function* () {
        const a = yield* scripted("a", ScriptedProvider.fail("ServerError"), ScriptedProvider.hang)
        const chain = yield* Fallback.make([yield* CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })(a)])
        yield* Effect.ignore(chain.generate(request))
        const finding = yield* Effect.forkChild(chain.generate(request))
        yield* a.awaitCalls(2)
        const errors = yield* Effect.forEach(Array.from({ length: 50 }), () => Effect.flip(chain.generate(request)))

        assert.isTrue(errors.every((error) => error._tag === "LlmUnavailable"))
        assert.strictEqual(yield* a.count, 2)
        yield* Fiber.interrupt(finding)
      })
    )

    it.effect("asks a provider that rests after a rate limit, at most once a second", () =>
      Effect.gen(function* () {
        const a = yield* scripted("a", ScriptedProvider.fail("RateLimited", { retryAfter: "30 seconds" }))
        const chain = yield* Fallback.make([yield* Cooldown.policy()(a)])
        for (let tenths = 0; tenths < 100; tenths++) {
          yield* Effect.ignore(chain.generate(request))
          yield* TestClock.adjust("100 millis")
        }

        assert.isAtMost(yield* a.count, 11)
      })
    )

    it.effect("never asks a step that was isolated by hand", () =>
      Effect.gen(function* () {
        const a = yield* scripted("a")
        const chain = yield* Fallback.make([yield* CircuitBreaker.policy()(a)])
        yield* chain.circuits.get("a")?.isolate("incident") ?? Effect.die("no circuit")
        const error = yield* Effect.flip(chain.generate(request))

        assert.deepStrictEqual(error._tag === "LlmUnavailable" ? story(error.attempts) : undefined, ["a: Isolated"])
        assert.strictEqual(yield* a.count, 0)
      })
    )
  })

  it.effect("flattens the story of a chain within a chain", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        scripted("a", ScriptedProvider.fail("Network")),
        scripted("b", ScriptedProvider.fail("Overloaded"))
      ])
      const inner = yield* Fallback.make([a, b], { id: "inner" })
      const outer = yield* Fallback.make([inner, yield* scripted("c")])
      const response = yield* outer.generate(request)

      assert.deepStrictEqual(story(response.served.attempts), ["a: Network", "b: Overloaded"])
    })
  )

  it.effect("keeps no state between concurrent calls", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({
        id: "a",
        script: (index) =>
          index % 2 === 0
            ? ScriptedProvider.fail("Overloaded")
            : ScriptedProvider.delay("1 second", ScriptedProvider.answer("a"))
      })
      const chain = yield* Fallback.make([
        a,
        yield* scripted("b", ScriptedProvider.delay("1 second", ScriptedProvider.answer("b")))
      ])
      const fibers = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(chain.generate(request)))
      yield* TestClock.adjust("10 seconds")
      const texts = yield* Effect.forEach(fibers, Fiber.join)

      assert.strictEqual(texts.filter(({ text }) => text === "a").length, 10)
      assert.strictEqual(texts.filter(({ text }) => text === "b").length, 10)
    })
  )

  it.effect("publishes what it does, in order, and builds no event while nobody listens", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const [a, b] = yield* Effect.all([scripted("a", ScriptedProvider.fail("Overloaded")), scripted("b")])
      const chain = yield* Effect.provideService(Fallback.make([a, b]), ResilienceEvent.CurrentHub, hub)
      assert.isFalse(hub.active())
      const listener = yield* Effect.forkChild(
        hub.stream.pipe(
          Stream.map((event) => event._tag),
          Stream.take(5),
          Stream.runCollect
        ),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      assert.isTrue(hub.active())
      yield* chain.generate(request)

      assert.deepStrictEqual(yield* Fiber.join(listener), [
        "AttemptStarted",
        "AttemptFailed",
        "FellBack",
        "AttemptStarted",
        "AttemptSucceeded"
      ])
      assert.isFalse(hub.active())
    })
  )

  it.effect("composes with any policy around it: a breaker around a chain", () =>
    Effect.gen(function* () {
      const chain = yield* Fallback.make([yield* scripted("a", ScriptedProvider.fail("ServerError"))])
      const guarded = yield* Policy.all([CircuitBreaker.policy(), Timeouts.policy()])(chain)
      for (let calls = 0; calls < 10; calls++) yield* Effect.ignore(guarded.generate(request))
      const state = yield* guarded.circuits.get("fallback")?.state ?? Effect.die("no circuit")

      // That nobody was available is no failure of a provider; otherwise the outer breaker would add an outage of its own.
      assert.deepStrictEqual(state, { _tag: "Closed", failures: 0 })
    })
  )

  it.effect(
    "goes on with another step when a policy dies in the middle of a stream, and says so where nobody can",
    () =>
      Effect.gen(function* () {
        const text = "a circuit breaker stops calling what keeps failing"
        const buggy = Policy.make((self) => ({
          stream: (request) =>
            Stream.map(self.stream(request), (part) => {
              if (part.type === "text-delta" && part.delta.includes("stops")) throw new Error("bug")
              return part
            })
        }))
        const primary = yield* Effect.flatMap(scripted("primary", ScriptedProvider.tokens(text)), buggy)
        const backup = yield* scripted("backup", ScriptedProvider.tokens(text))

        const saved = yield* read((yield* Fallback.make([primary, backup])).stream(request))
        assert.deepStrictEqual([saved.text, saved.exit._tag], [text, "Success"])

        const alone = yield* read((yield* Fallback.make([primary], { recovery: "fail" })).stream(request))
        const error = errorOf(alone.exit)
        assert.deepInclude(error, { _tag: "APIError", provider: "primary", reason: "ServerError" })
      })
  )

  it.effect("rejects two steps of the same name and a share that is none", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a")
      const messageOf = <A, E>(exit: Exit.Exit<A, E>) =>
        Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : "accepted"

      assert.strictEqual(
        messageOf(yield* Effect.exit(Fallback.make([a, a]))),
        'Fallback.make: two steps have the id "a"; give each provider an id of its own'
      )
      assert.strictEqual(
        messageOf(yield* Effect.exit(Fallback.make([a], { share: 0 }))),
        "Fallback.make: share must be in (0, 1], got 0"
      )
    })
  )
})

describe("The last resort that is interrupted", () => {
  for (const operations of [3, 4, 5]) {
    it.effect(`is there for the next caller at every point, at ${operations} operations a turn`, () =>
      Effect.gen(function* () {
        let ended = false
        for (let turns = 1; turns < 150 && !ended; turns++) {
          const provider = yield* scripted("p", ScriptedProvider.fail("Authentication"), ScriptedProvider.answer("p"))
          const rested = yield* Cooldown.policy({ isolation: "1 hour" })(provider)
          const chain = yield* Fallback.make([rested], { lastResortEvery: 0 })
          yield* Effect.exit(chain.generate(request))

          const call = yield* chain
            .generate(request)
            .pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, operations), Effect.forkChild)
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          ended = call.pollUnsafe() !== undefined
          yield* Fiber.interrupt(call)
          yield* TestClock.adjust("30 minutes")

          const exit = yield* Effect.exit(chain.generate(request))
          assert.isTrue(Exit.isSuccess(exit), `after ${turns} turns`)
        }
        assert.isTrue(ended)
      })
    )
  }
})

describe("A chain within a chain", () => {
  it.effect("asks only the step that is back soonest as a last resort", () =>
    Effect.gen(function* () {
      const failing = (id: string) => scripted(id, ScriptedProvider.fail("Authentication"))
      const [a, b, c] = yield* Effect.all([failing("a"), failing("b"), failing("c")])
      const rest = Cooldown.policy({ isolation: "1 hour" })
      const inner = yield* Fallback.make([yield* rest(a), yield* rest(b), yield* rest(c)], { id: "inner" })
      const outer = yield* Fallback.make([inner], { id: "outer" })
      yield* Effect.exit(outer.generate(request))
      yield* TestClock.adjust("5 seconds")
      yield* Effect.exit(outer.generate(request))

      const counts = [yield* a.count, yield* b.count, yield* c.count]
      assert.strictEqual(
        counts.reduce((sum, count) => sum + count, 0),
        4
      )
    })
  )
})

describe("An attempt that was started", () => {
  const told = Effect.fnUntraced(function* (
    chainOf: Effect.Effect<Provider.Provider, never, Scope.Scope>,
    ask: (chain: Provider.Provider) => Effect.Effect<unknown, unknown>
  ) {
    const hub = ResilienceEvent.makeHub()
    const events: Array<string> = []
    yield* Effect.forkChild(
      Stream.runForEach(hub.stream, (event) =>
        Effect.sync(() => {
          if ("provider" in event && event._tag !== "Committed") events.push(`${event._tag} ${event.provider}`)
        })
      ),
      { startImmediately: true }
    )
    yield* Effect.yieldNow
    const chain = yield* Effect.provideService(chainOf, ResilienceEvent.CurrentHub, hub)
    yield* ends(ask(chain))
    return events
  })

  it.effect("has an end also when it was a chain of its own", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a", ScriptedProvider.fail("Authentication"))
      const b = yield* scripted("b")
      const nested = Effect.flatMap(Fallback.make([a], { id: "inner" }), (inner) => Fallback.make([inner, b]))

      assert.deepStrictEqual(yield* told(nested, (chain) => chain.generate(request)), [
        "AttemptStarted inner",
        "AttemptStarted a",
        "AttemptFailed a",
        "StepSkipped inner",
        "AttemptStarted b",
        "AttemptSucceeded b"
      ])
    })
  )

  it.effect("has an end also when it was to finish a broken stream and refused", () =>
    Effect.gen(function* () {
      const broken = yield* scripted(
        "a",
        ScriptedProvider.stream(["Hello ", ScriptedProvider.pause("1 second"), ScriptedProvider.fail("ServerError")]),
        ScriptedProvider.answer("Hello there")
      )
      const b = yield* scripted("b", ScriptedProvider.hang)
      const full = yield* Bulkhead.policy({ permits: 1, queue: 1, maxWait: "1 second" })(b)
      yield* Effect.forkChild(full.generate(request), { startImmediately: true })
      const events = yield* told(Fallback.make([broken, full]), (chain) => Stream.runDrain(chain.stream(request)))

      assert.deepStrictEqual(events.slice(0, 4), [
        "AttemptStarted a",
        "AttemptSucceeded a",
        "AttemptStarted b",
        "StepSkipped b"
      ])
    })
  )
})
