import { assert, describe, it } from "@effect/vitest"
import {
  DeferredQueue,
  DeferredStore,
  LlmRequest,
  LlmResilience,
  LlmUnavailable,
  Policy,
  type Provider,
  ResilienceEvent,
  Retry
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Exit, Fiber, Layer, Schedule, Schema, Stream } from "effect"
import { Prompt, Tool } from "effect/ai"
import { TestClock } from "effect/testing"
import * as NodeSqlite from "../support/nodeSqlite.ts"

const { answer, delay, die, fail, hang } = ScriptedProvider

const asking = (prompt: string, more?: Partial<LlmRequest.Input>) => LlmRequest.make({ prompt, mayWait: true, ...more })

const questionOf = (request: LlmRequest.LlmRequest): string => {
  const content = request.prompt.content.at(-1)?.content
  const part = typeof content === "string" ? undefined : content?.[0]
  return part?.type === "text" ? part.text : ""
}

/** Answers every question with itself. */
const echo = (id = "echo") =>
  ScriptedProvider.make({ id, script: (_, request) => answer(`answer to ${questionOf(request)}`) })

const answeredText = (settled: DeferredQueue.Status) =>
  settled._tag === "Answered" ? settled.response.text : settled._tag

const stores = {
  memory: DeferredStore.layerMemory,
  sql: Layer.orDie(Layer.provide(DeferredStore.layerSql(), NodeSqlite.layer(":memory:")))
}

/** Lets a minute pass in small steps, as a real one would. */
const wait = (duration: Duration.Input) =>
  Effect.gen(function* () {
    const steps = Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(duration)) / 50)
    for (let step = 0; step < steps; step++) yield* TestClock.adjust("50 millis")
  })

for (const [name, store] of Object.entries(stores)) {
  /** A queue whose worker asks `provider`. */
  const withQueue = <A, E>(
    options: DeferredQueue.Options,
    use: (queue: DeferredQueue.DeferredQueue["Service"]) => Effect.Effect<A, E>
  ) => Effect.flatMap(DeferredQueue.make(options), use).pipe(Effect.provide(store))

  const working = <A, E>(
    queue: DeferredQueue.DeferredQueue["Service"],
    provider: Provider.Provider,
    effect: Effect.Effect<A, E>
  ) =>
    Effect.gen(function* () {
      const worker = yield* Effect.forkChild(queue.workOff(provider))
      const result = yield* effect
      yield* Fiber.interrupt(worker)
      return result
    })

  describe(`DeferredQueue over ${name}`, () => {
    it.effect("answers what was accepted", () =>
      withQueue({}, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          const ticket = yield* queue.accept(asking("one", { scope: "acme", subject: "ann" }))
          const before = yield* queue.status(ticket)

          const settled = yield* working(queue, model, queue.await(ticket))

          assert.deepInclude(before, { _tag: "Queued", attempts: 0, expiresAfter: Duration.hours(24) })
          assert.strictEqual(answeredText(settled), "answer to one")
          assert.strictEqual(settled._tag === "Answered" && settled.response.served.provider, "echo")
          const [call] = yield* model.calls
          assert.strictEqual(call?.request.scope, "acme")
          assert.strictEqual(call?.request.subject, "ann")
          assert.deepStrictEqual(yield* queue.size, { queued: 0, running: 0 })
        })
      )
    )

    it.effect("wakes who waits already", () =>
      withQueue({}, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          const ticket = yield* queue.accept(asking("one"))
          const waiter = yield* Effect.forkChild(queue.await(ticket), { startImmediately: true })

          yield* working(queue, model, Effect.andThen(wait("200 millis"), Effect.void))

          assert.strictEqual(answeredText(yield* Fiber.join(waiter)), "answer to one")
        })
      )
    )

    it.effect("goes on when a request is cancelled at whatever moment between its claim and its answer", () =>
      Effect.forEach(
        Array.from({ length: 40 }, (_, yields) => yields),
        (yields) =>
          withQueue({ concurrency: 1 }, (queue) =>
            Effect.gen(function* () {
              const model = yield* echo()
              const cancelled = yield* queue.accept(asking("cancelled"))
              const worker = yield* Effect.forkChild(queue.workOff(model))
              for (let yielded = 0; yielded < yields; yielded++) yield* Effect.yieldNow
              yield* queue.cancel(cancelled)
              const next = yield* queue.accept(asking("next"))
              yield* wait("2 seconds")

              assert.strictEqual(answeredText(yield* queue.status(next)), "answer to next", `after ${yields} yields`)
              yield* Fiber.interrupt(worker)
            })
          ),
        { discard: true }
      )
    )

    it.effect("gives the same ticket for the same key in the same scope, and another one in another scope", () =>
      withQueue({}, (queue) =>
        Effect.gen(function* () {
          const first = yield* queue.accept(asking("one", { scope: "a" }), { key: "k" })
          const second = yield* queue.accept(asking("one", { scope: "a" }), { key: "k" })
          const other = yield* queue.accept(asking("one", { scope: "b" }), { key: "k" })

          assert.strictEqual(first, second)
          assert.notStrictEqual(first, other)
          assert.strictEqual((yield* queue.size).queued, 2)
        })
      )
    )

    it.effect("says no at once when it is full, and takes the next once there is room", () =>
      withQueue({ capacity: 2 }, (queue) =>
        Effect.gen(function* () {
          const first = yield* queue.accept(asking("one"))
          yield* queue.accept(asking("two"))

          const error = yield* Effect.flip(queue.accept(asking("three")))
          yield* queue.cancel(first)
          const third = yield* queue.accept(asking("three"))

          assert.deepInclude(error, { _tag: "QueueFull", capacity: 2 })
          assert.strictEqual((yield* queue.status(third))._tag, "Queued")
        })
      )
    )

    it.effect("works off critical requests before normal ones, and batch last, unless the terms say otherwise", () =>
      withQueue({ concurrency: 1 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          for (const priority of ["batch", "normal", "critical"] as const)
            yield* queue.accept(asking(priority, { priority }))

          yield* working(queue, model, wait("1 second"))

          const calls = yield* model.calls
          assert.deepStrictEqual(
            calls.map(({ request }) => [questionOf(request), request.priority]),
            ["critical", "normal", "batch"].map((priority) => [priority, priority])
          )
        })
      )
    )

    it.effect("works off the highest priority first, then the oldest", () =>
      withQueue({ concurrency: 1 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          yield* queue.accept(asking("low 1"), { priority: -1 })
          yield* queue.accept(asking("usual 1"))
          yield* queue.accept(asking("high"), { priority: 5 })
          yield* queue.accept(asking("usual 2"))

          yield* working(queue, model, wait("1 second"))

          const calls = yield* model.calls
          assert.deepStrictEqual(
            calls.map((call) => questionOf(call.request)),
            ["high", "usual 1", "usual 2", "low 1"]
          )
        })
      )
    )

    it.effect("begins with one at a time, allows one more after each answer, and paces the starts", () =>
      withQueue({ concurrency: 3, every: "100 millis" }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [delay("1 second", answer("ok"))] })
          for (let i = 0; i < 10; i++) yield* queue.accept(asking(`question ${i}`))

          yield* working(queue, model, wait("10 seconds"))

          const starts = (yield* model.calls).map((call) => call.at)
          const gaps = starts.slice(1).map((at, index) => at - (starts[index] ?? 0))
          assert.strictEqual(starts.length, 10)
          assert.isAtLeast(Math.min(...gaps), 100)
          const most = Math.max(
            ...starts.map((at) => starts.filter((other) => other <= at && other + 1000 > at).length)
          )
          assert.strictEqual(most, 3)
          assert.strictEqual(starts.filter((at) => at < (starts[0] ?? 0) + 1000).length, 1)
        })
      )
    )

    it.effect("asks nobody while the provider would refuse, and loses no attempt by it", () =>
      withQueue({ maxAttempts: 1 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          let open = true
          const resting: Provider.Provider = {
            ...model,
            availability: () => (open ? { _tag: "CircuitOpen", retryAfter: Duration.hours(1) } : undefined)
          }
          const ticket = yield* queue.accept(asking("one"))

          const [meanwhile, asked, settled] = yield* working(
            queue,
            resting,
            Effect.gen(function* () {
              yield* wait("1 minute")
              const meanwhile = yield* queue.status(ticket)
              const asked = yield* model.count
              open = false
              yield* wait("2 seconds")
              return [meanwhile, asked, yield* queue.status(ticket)] as const
            })
          )

          assert.deepInclude(meanwhile, { _tag: "Queued", attempts: 0 })
          assert.strictEqual(asked, 0)
          assert.strictEqual(answeredText(settled), "answer to one")
        })
      )
    )

    it.effect("pauses after a failure instead of trying the whole queue on a sick provider", () =>
      withQueue({ every: 0 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [fail("Overloaded")] })
          for (let i = 0; i < 100; i++) yield* queue.accept(asking(`question ${i}`))

          yield* working(queue, model, wait("1 minute"))

          assert.isAtMost(yield* model.count, 8)
        })
      )
    )

    it.effect("gives up after its attempts, keeps the dead letter with its reason, and queues it again on demand", () =>
      withQueue({ maxAttempts: 2, backoff: "1 second" }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({
            script: [fail("ServerError"), fail("ServerError"), answer("at last")]
          })
          const ticket = yield* queue.accept(asking("one", { scope: "acme" }))

          yield* working(
            queue,
            model,
            Effect.gen(function* () {
              yield* wait("10 seconds")
              const settled = yield* queue.await(ticket)
              const [letter] = yield* queue.deadLetters()
              yield* queue.requeue(ticket)
              yield* wait("10 seconds")

              assert.deepInclude(settled, { _tag: "Dead", attempts: 2 })
              assert.deepInclude(letter, { ticket, scope: "acme", attempts: 2 })
              assert.include(letter?.reason, "ServerError")
              assert.strictEqual(letter?.request && questionOf(letter.request), "one")
              assert.strictEqual(answeredText(yield* queue.await(ticket)), "at last")
              assert.deepStrictEqual(yield* queue.deadLetters(), [])
              assert.strictEqual((yield* Effect.flip(queue.requeue(ticket)))._tag, "TicketUnknown")
            })
          )
        })
      )
    )

    it.effect("buries at once what would be rejected every time, and goes on with the others", () =>
      withQueue({}, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [fail("InvalidRequest"), answer("fine")] })
          const bad = yield* queue.accept(asking("bad"))
          const good = yield* queue.accept(asking("good"))

          yield* working(queue, model, wait("1 second"))

          assert.deepInclude(yield* queue.status(bad), { _tag: "Dead", attempts: 1 })
          assert.strictEqual(answeredText(yield* queue.status(good)), "fine")
        })
      )
    )

    it.effect("survives a defect of the provider", () =>
      withQueue({ backoff: "100 millis" }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [die("boom"), answer("fine")] })
          const ticket = yield* queue.accept(asking("one"))

          yield* working(queue, model, wait("5 seconds"))

          assert.strictEqual(answeredText(yield* queue.status(ticket)), "fine")
        })
      )
    )

    it.effect("lets a request expire, and never asks for it afterwards", () =>
      withQueue({ expiresAfter: "1 minute" }, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          const ticket = yield* queue.accept(asking("one"))
          const short = yield* queue.accept(asking("two"), { expiresAfter: "1 second" })
          const resting: Provider.Provider = {
            ...model,
            availability: () => ({ _tag: "CircuitOpen", retryAfter: Duration.hours(1) })
          }

          const early = yield* working(queue, resting, Effect.andThen(wait("3 seconds"), queue.status(short)))
          yield* TestClock.adjust("2 minutes")
          const late = yield* working(queue, model, Effect.andThen(wait("2 seconds"), queue.await(ticket)))

          assert.strictEqual(early._tag, "Expired")
          assert.strictEqual(late._tag, "Expired")
          assert.strictEqual(yield* model.count, 0)
        })
      )
    )

    it.effect("cancels what waits and what is being asked, and says when it was too late", () =>
      withQueue({ concurrency: 1 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [hang, answer("next")] })
          const running = yield* queue.accept(asking("one"))
          const queued = yield* queue.accept(asking("two"))
          const third = yield* queue.accept(asking("three"))

          yield* working(
            queue,
            model,
            Effect.gen(function* () {
              yield* wait("200 millis")
              assert.strictEqual((yield* queue.status(running))._tag, "Running")

              assert.isTrue(yield* queue.cancel(queued))
              assert.isTrue(yield* queue.cancel(running))
              yield* wait("1 second")

              assert.isFalse(yield* queue.cancel(third))
              assert.isFalse(yield* queue.cancel("nobody's"))
            })
          )

          assert.strictEqual((yield* queue.await(queued))._tag, "Cancelled")
          assert.strictEqual((yield* queue.await(running))._tag, "Cancelled")
          assert.strictEqual(answeredText(yield* queue.await(third)), "next")
          assert.strictEqual(yield* model.running, 0)
          assert.deepStrictEqual(
            (yield* model.calls).map((call) => call.outcome),
            ["interrupted", "answered"]
          )
        })
      )
    )

    it.effect("puts back what it was asking when it is stopped, without counting the attempt", () =>
      withQueue({ maxAttempts: 1 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [hang, answer("second life")] })
          const ticket = yield* queue.accept(asking("one"))

          yield* working(queue, model, wait("1 second"))
          const between = yield* queue.status(ticket)
          yield* working(queue, model, wait("1 second"))

          assert.deepInclude(between, { _tag: "Queued", attempts: 0 })
          assert.strictEqual(answeredText(yield* queue.status(ticket)), "second life")
        })
      )
    )

    it.effect("takes over from a worker that died, and the answer of the dead one changes nothing", () =>
      Effect.gen(function* () {
        const memory = yield* DeferredStore.DeferredStore
        const queue = yield* DeferredQueue.make({ lease: "30 seconds" })
        const model = yield* echo()
        const ticket = yield* queue.accept(asking("one"))
        const dead = yield* memory.claim({ owner: "dead", now: 0, leaseUntil: 30_000 })
        assert.strictEqual(dead?.ticket, ticket)

        yield* working(queue, model, wait("29 seconds"))
        const before = yield* queue.status(ticket)
        yield* working(queue, model, wait("3 seconds"))
        const late = yield* memory.settle({
          ticket,
          claim: dead?.claim ?? 0,
          now: 40_000,
          state: "answered",
          result: "late",
          note: undefined
        })

        assert.strictEqual(before._tag, "Running")
        assert.isFalse(late)
        assert.strictEqual(answeredText(yield* queue.status(ticket)), "answer to one")
      }).pipe(Effect.provide(store))
    )

    it.effect("ignores a worker that lost its claim to another one", () =>
      Effect.gen(function* () {
        const held = yield* DeferredStore.DeferredStore
        const queue = yield* DeferredQueue.make()
        const ticket = yield* queue.accept(asking("one"))
        yield* held.claim({ owner: "first", now: 0, leaseUntil: 10 })
        const second = yield* held.claim({ owner: "second", now: 10, leaseUntil: 20 })
        const lost = { ticket, claim: 1, note: undefined }

        const settled = yield* held.settle({ ...lost, now: 11, state: "answered", result: "late" })
        const released = yield* held.release({ ...lost, visibleAt: 11, refund: true })

        assert.strictEqual(second?.claim, 2)
        assert.isFalse(settled)
        assert.isFalse(released)
        assert.deepInclude(yield* queue.status(ticket), { _tag: "Running", attempts: 2 })
      }).pipe(Effect.provide(store))
    )

    it.effect("buries a request that kills its worker every time", () =>
      Effect.gen(function* () {
        const held = yield* DeferredStore.DeferredStore
        const queue = yield* DeferredQueue.make({ maxAttempts: 2 })
        const model = yield* echo()
        const ticket = yield* queue.accept(asking("one"))
        yield* held.claim({ owner: "dead", now: 0, leaseUntil: 1 })
        yield* held.claim({ owner: "dead too", now: 1, leaseUntil: 2 })
        yield* TestClock.adjust("1 second")

        yield* working(queue, model, wait("1 second"))

        assert.deepInclude(yield* queue.status(ticket), { _tag: "Dead", reason: "The worker died with it" })
        assert.strictEqual(yield* model.count, 0)
      }).pipe(Effect.provide(store))
    )

    it.effect("ends a request whose provider would never give up, at the deadline of the attempt", () =>
      withQueue({ maxAttempts: 1, deadline: "10 seconds" }, (queue) =>
        Effect.gen(function* () {
          const model = yield* ScriptedProvider.make({ script: [hang] })
          const ticket = yield* queue.accept(asking("one"))

          yield* working(queue, model, wait("12 seconds"))

          assert.strictEqual((yield* queue.status(ticket))._tag, "Dead")
        })
      )
    )

    it.effect("renews its lease while it asks for a long time", () =>
      withQueue({ lease: "3 seconds" }, (queue) =>
        Effect.gen(function* () {
          const slow = yield* ScriptedProvider.make({ script: [delay("20 seconds", answer("slow"))] })
          const ticket = yield* queue.accept(asking("one"))

          yield* working(queue, slow, working(queue, slow, wait("25 seconds")))

          assert.strictEqual(answeredText(yield* queue.status(ticket)), "slow")
          assert.strictEqual(yield* slow.count, 1)
        })
      )
    )

    // What a store could not write down, or did and could not say, is nobody's work any more, however well the worker is.
    for (const operation of ["claim", "release", "settle", "claimDelivery", "endDelivery"] as const) {
      it.effect(`takes up again what it lost when the store failed to answer to ${operation}`, () =>
        Effect.gen(function* () {
          const sound = yield* DeferredStore.DeferredStore
          const lost = yield* Effect.fail(new DeferredStore.StoreError({ operation, cause: "gone" })).pipe(Effect.exit)
          let failures = 5
          const failing =
            <A, B>(through: (options: A) => Effect.Effect<B, DeferredStore.StoreError>, isWritten: boolean) =>
            (options: A): Effect.Effect<B, DeferredStore.StoreError> =>
              Effect.suspend(() => {
                if (--failures < 0) return through(options)
                return Effect.andThen(isWritten ? through(options) : Effect.void, lost)
              })
          const broken = {
            claim: { claim: failing(sound.claim, true) },
            release: { release: failing(sound.release, false) },
            settle: { settle: failing(sound.settle, false) },
            claimDelivery: { claimDelivery: failing(sound.claimDelivery, true) },
            endDelivery: { endDelivery: failing(sound.endDelivery, false) }
          }
          const delivered: Array<string> = []
          const queue = yield* DeferredQueue.make({
            lease: "3 seconds",
            pollInterval: "1 second",
            backoff: "100 millis",
            maxAttempts: 20,
            onSettled: ({ ticket }) => Effect.sync(() => void delivered.push(ticket))
          }).pipe(Effect.provideService(DeferredStore.DeferredStore, { ...sound, ...broken[operation] }))
          const model = yield* ScriptedProvider.make({
            script: (nth) => (operation === "release" && nth < 5 ? fail("Overloaded") : answer("so it is"))
          })
          const ticket = yield* queue.accept(asking("one"))

          yield* working(queue, model, wait("2 minutes"))

          assert.strictEqual(answeredText(yield* queue.status(ticket)), "so it is")
          assert.isAtLeast(delivered.length, 1)
          assert.isBelow(failures, 1)
        }).pipe(Effect.provide(store))
      )
    }

    it.effect("hands every end to the handler, again when it failed, and once when it succeeded", () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        let failures = 1
        const model = yield* echo()
        const queue = yield* DeferredQueue.make({
          lease: "2 seconds",
          onSettled: (settled) =>
            Effect.suspend(() => {
              seen.push(`${settled.ticket} ${answeredText(settled)}`)
              return failures-- > 0 ? Effect.fail("busy") : Effect.void
            })
        })
        const ticket = yield* queue.accept(asking("one"))
        const other = yield* queue.accept(asking("two"))
        yield* queue.cancel(other)

        yield* working(queue, model, wait("10 seconds"))

        // The one that came first was refused, and came again.
        const [first = ""] = seen
        assert.deepStrictEqual(seen.toSorted(), [first, `${other} Cancelled`, `${ticket} answer to one`].toSorted())
      }).pipe(Effect.provide(store))
    )

    it.effect("forgets results after their time and keeps at most so many", () =>
      withQueue({ keepFor: "1 hour", keepAtMost: 2 }, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          const tickets: Array<string> = []
          for (let i = 0; i < 4; i++) {
            tickets.push(yield* queue.accept(asking(`question ${i}`)))
            yield* queue.cancel(tickets[i] ?? "")
            yield* TestClock.adjust("1 second")
          }
          const left = Effect.map(
            Effect.forEach(tickets, (ticket) => Effect.exit(queue.status(ticket))),
            (exits) => exits.filter(Exit.isSuccess).length
          )

          yield* working(queue, model, wait("100 millis"))
          const many = yield* left
          yield* TestClock.adjust("2 hours")
          yield* working(queue, model, wait("100 millis"))

          assert.strictEqual(many, 2)
          assert.strictEqual(yield* left, 0)
        })
      )
    )

    it.effect("refuses what cannot be written down", () =>
      withQueue({ maxBytes: 1000 }, (queue) =>
        Effect.gen(function* () {
          const because = (request: LlmRequest.LlmRequest) =>
            Effect.map(Effect.flip(queue.accept(request)), (error) =>
              error._tag === "NotDeferrable" ? error.because : error._tag
            )
          const tool = Tool.make("now", { success: Schema.String })
          const odd = Prompt.make([
            {
              role: "assistant",
              content: [{ type: "tool-call", id: "1", name: "t", params: { call: () => 1 }, providerExecuted: false }]
            }
          ])

          assert.strictEqual(yield* because(asking("x", { tools: [tool] })), "tools")
          assert.strictEqual(
            yield* because(
              asking("x", { responseFormat: { type: "json", objectName: "o", schema: Schema.Struct({}) } })
            ),
            "json"
          )
          assert.strictEqual(yield* because({ ...asking("x"), prompt: odd }), "notJson")
          assert.strictEqual(yield* because(asking("x".repeat(1001))), "tooLarge")
        })
      )
    )

    it.effect("asks for exactly what was accepted: messages, files and settings", () =>
      withQueue({}, (queue) =>
        Effect.gen(function* () {
          const model = yield* echo()
          const request = LlmRequest.make({
            prompt: [
              { role: "system", content: "Be brief." },
              {
                role: "user",
                content: [
                  { type: "text", text: "What is this?" },
                  { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
                  { type: "file", mediaType: "image/png", data: new URL("https://example.org/a.png") }
                ]
              }
            ],
            settings: { maxOutputTokens: 10, temperature: 0, stop: ["."], providerOptions: { openai: { user: "u" } } },
            mayWait: true,
            mayCache: false,
            cacheMatch: "exact"
          })
          yield* queue.accept(request)

          yield* working(queue, model, wait("200 millis"))

          const [call] = yield* model.calls
          assert.deepStrictEqual(call?.request.prompt, request.prompt)
          assert.deepStrictEqual(call?.request.settings, request.settings)
          assert.isFalse(call?.request.mayCache)
          assert.strictEqual(call?.request.cacheMatch, "exact")
          assert.strictEqual(call?.request.expiresAt, 300_000)
        })
      )
    )
  })
}

/** A chain of one model behind a queue, without retries. */
const chain = (
  script: ScriptedProvider.Script,
  options?: DeferredQueue.Options,
  policy?: DeferredQueue.PolicyOptions
) =>
  Layer.provideMerge(
    LlmResilience.layer({
      steps: [
        {
          provider: ScriptedProvider.layer({ id: "model", script }),
          policy: LlmResilience.standard({ retry: "off" })
        }
      ],
      around: DeferredQueue.policy(policy)
    }),
    DeferredQueue.layerMemory(options)
  )

describe("DeferredQueue.policy", () => {
  it.effect("gives a ticket instead of an answer, and the answer for the ticket once the provider is back", () =>
    Effect.gen(function* () {
      const queue = yield* DeferredQueue.DeferredQueue

      const error = yield* Effect.flip(LlmResilience.generate({ prompt: "Hi", mayWait: true }))
      const notice = error._tag === "LlmUnavailable" ? error.notice : undefined
      yield* wait("1 minute")
      const settled = yield* queue.await(notice?._tag === "Queued" ? notice.ticket : "")

      assert.deepInclude(notice, {
        _tag: "Queued",
        message: "Your request has been queued and will be processed shortly.",
        expiresAfter: Duration.hours(24)
      })
      assert.strictEqual(answeredText(settled), "back again")
    }).pipe(Effect.provide(Layer.fresh(chain([fail("Overloaded"), answer("back again")]))))
  )

  it.effect("may call as often for a ticket as for a request", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({ script: [fail("Overloaded")] })
      const service = yield* LlmResilience.make({
        steps: [{ provider: model, policy: Retry.policy({ schedule: Schedule.recurs(5) }) }],
        attempts: 2,
        around: DeferredQueue.policy()
      })

      yield* Effect.flip(service.generate(LlmRequest.make({ prompt: "Hi", mayWait: true })))
      assert.strictEqual(yield* model.count, 2)
      yield* wait("1 second")
      assert.strictEqual(yield* model.count, 4)
    }).pipe(Effect.provide(Layer.fresh(DeferredQueue.layerMemory())))
  )

  it.effect("queues a stream that never began, and not one that broke", () =>
    Effect.gen(function* () {
      const ask = Effect.flip(Stream.runDrain(LlmResilience.stream({ prompt: "Hi", mayWait: true })))

      const never = yield* ask
      const broken = yield* ask

      assert.strictEqual(never._tag === "LlmUnavailable" && never.notice._tag, "Queued")
      assert.strictEqual(broken._tag, "APIError")
    }).pipe(
      Effect.provide(
        chain([fail("Overloaded"), ScriptedProvider.stream(["Hel", ScriptedProvider.cut])], {}, { work: "elsewhere" })
      )
    )
  )

  it.effect("does not answer later what the reader has begun to read", () =>
    Effect.gen(function* () {
      const queue = yield* DeferredQueue.DeferredQueue
      const model = yield* echo()
      const refusal = LlmUnavailable.make([])
      const guarded = yield* DeferredQueue.policy({ work: "elsewhere" })({
        ...model,
        stream: () =>
          Stream.concat(Stream.succeed({ type: "text-delta" as const, id: "1", delta: "Hel" }), Stream.fail(refusal))
      })

      const error = yield* Effect.flip(Stream.runDrain(guarded.stream(asking("Hi"))))

      assert.strictEqual(error, refusal)
      assert.strictEqual((yield* queue.size).queued, 0)
    }).pipe(Effect.scoped, Effect.provide(DeferredQueue.layerMemory()))
  )

  it.effect("leaves alone what may not wait, what is rejected and what is too long for every model", () =>
    Effect.gen(function* () {
      const queue = yield* DeferredQueue.DeferredQueue
      const replies = [
        yield* LlmResilience.generateOrNotice({ prompt: "1" }),
        yield* LlmResilience.generateOrNotice({ prompt: "2", mayWait: true }),
        yield* LlmResilience.generateOrNotice({ prompt: "3", mayWait: true })
      ]

      assert.deepStrictEqual(
        replies.map((reply) => reply._tag),
        ["Unavailable", "Rejected", "Unavailable"]
      )
      assert.strictEqual((yield* queue.size).queued, 0)
    }).pipe(
      Effect.provide(
        chain([fail("Overloaded"), fail("InvalidRequest"), fail("ContextLengthExceeded")], {}, { work: "elsewhere" })
      )
    )
  )

  it.effect("says why a request that might wait does not", () =>
    Effect.gen(function* () {
      const resilience = yield* LlmResilience.LlmResilience
      const events: Array<ResilienceEvent.ResilienceEvent> = []
      yield* Effect.forkChild(
        Stream.runForEach(resilience.events, (event) => Effect.sync(() => events.push(event))),
        { startImmediately: true }
      )
      const ask = (more?: Partial<LlmRequest.Input>) =>
        Effect.map(
          Effect.flip(LlmResilience.generate({ prompt: "Hi", mayWait: true, ...more })),
          (error) => error._tag === "LlmUnavailable" && ([error.notice._tag, error.notQueued] as const)
        )

      assert.deepStrictEqual(yield* ask({ tools: [Tool.make("t")] }), ["Unavailable", "NotDeferrable"])
      assert.deepStrictEqual(yield* ask(), ["Queued", undefined])
      assert.deepStrictEqual(yield* ask(), ["Unavailable", "QueueFull"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(
        events.flatMap((event) =>
          event._tag === "DeferralRefused" ? [event.reason] : event._tag === "Deferred" ? [event._tag] : []
        ),
        ["NotDeferrable", "Deferred", "QueueFull"]
      )
    }).pipe(Effect.provide(chain([fail("Overloaded")], { capacity: 1 }, { work: "elsewhere" })))
  )

  it.effect("does not keep the caller waiting for a store that hangs or fails", () =>
    Effect.gen(function* () {
      const memory = yield* DeferredStore.makeMemory
      const broken = (insert: DeferredStore.DeferredStore["Service"]["insert"]) =>
        Layer.provideMerge(
          LlmResilience.layer({
            steps: [{ provider: ScriptedProvider.layer({ script: [fail("Authentication")] }) }],
            around: DeferredQueue.policy({ work: "elsewhere" })
          }),
          Layer.provide(DeferredQueue.layer(), Layer.succeed(DeferredStore.DeferredStore, { ...memory, insert }))
        )
      const ask = Effect.flip(LlmResilience.generate({ prompt: "Hi", mayWait: true }))

      const hanging = yield* Effect.forkChild(
        Effect.provide(
          ask,
          broken(() => Effect.never)
        )
      )
      yield* TestClock.adjust("2 seconds")
      const failing = yield* Effect.provide(
        ask,
        broken(() => Effect.fail(new DeferredStore.StoreError({ operation: "insert", cause: "disk full" })))
      )

      assert.deepInclude(yield* Fiber.join(hanging), { _tag: "LlmUnavailable", notQueued: "StoreError" })
      assert.deepInclude(failing, { _tag: "LlmUnavailable", notQueued: "StoreError" })
    })
  )

  it.effect("leaves the caller its error, and tells the operator of the cause, when the store or the terms die", () =>
    Effect.gen(function* () {
      const memory = yield* DeferredStore.makeMemory
      const seen = Effect.fnUntraced(function* (
        insert: DeferredStore.DeferredStore["Service"]["insert"],
        terms?: () => DeferredQueue.Terms
      ) {
        const hub = ResilienceEvent.makeHub()
        const causes: Array<unknown> = []
        yield* hub.listen((event) => {
          if (event._tag === "DeferredStoreFailed") causes.push(event.cause)
        })
        const store = Layer.succeed(DeferredStore.DeferredStore, { ...memory, insert })
        const provider = yield* ScriptedProvider.make({ script: [fail("Authentication")] })
        const around = DeferredQueue.policy({ work: "elsewhere", terms })
        const { generate } = yield* LlmResilience.make({ hub, around, steps: [{ provider }] }).pipe(
          Effect.provide(Layer.provide(DeferredQueue.layer(), store))
        )
        const error = yield* Effect.flip(generate(asking("Hi")))
        return [error._tag === "LlmUnavailable" && error.notQueued, causes]
      })
      const failing = () => Effect.fail(new DeferredStore.StoreError({ operation: "insert", cause: "disk full" }))

      assert.deepStrictEqual(yield* seen(failing), ["StoreError", ["disk full"]])
      assert.deepStrictEqual(yield* seen(() => Effect.die("driver")), ["StoreError", ["driver"]])
      assert.deepStrictEqual(yield* seen(memory.insert, () => ({ priority: 0.5 })), [
        "StoreError",
        [new RangeError("DeferredQueue.accept: priority must be an integer, got 0.5")]
      ])
    })
  )

  it.effect("goes on working when the store dies once", () =>
    Effect.gen(function* () {
      const memory = yield* DeferredStore.makeMemory
      let claims = 0
      const claim: typeof memory.claim = (options) =>
        Effect.suspend(() => (claims++ === 0 ? Effect.die("driver") : memory.claim(options)))
      const queue = yield* DeferredQueue.make().pipe(
        Effect.provideService(DeferredStore.DeferredStore, { ...memory, claim })
      )
      yield* Effect.forkChild(queue.workOff(yield* echo()))
      const ticket = yield* queue.accept(asking("a"))
      yield* wait("5 seconds")

      assert.strictEqual(answeredText(yield* queue.status(ticket)), "answer to a")
    })
  )

  it.effect("leaves it to the next step of an outer chain", () =>
    Effect.gen(function* () {
      const queue = yield* DeferredQueue.DeferredQueue
      const inner = yield* ScriptedProvider.make({ id: "inner", script: [fail("Authentication")] })
      const outer = yield* ScriptedProvider.make({ id: "outer", script: [answer("from the outer one")] })
      const guarded = yield* DeferredQueue.policy({ work: "elsewhere" })(
        (yield* LlmResilience.make({ steps: [{ provider: inner }] })).provider
      )

      const resilience = yield* LlmResilience.make({ steps: [{ provider: guarded }, { provider: outer }] })
      const response = yield* resilience.generate(asking("Hi"))

      assert.strictEqual(response.text, "from the outer one")
      assert.strictEqual((yield* queue.size).queued, 0)
    }).pipe(Effect.scoped, Effect.provide(DeferredQueue.layerMemory()))
  )

  it.effect("tells a listener how each ticket ended", () =>
    Effect.gen(function* () {
      const resilience = yield* LlmResilience.LlmResilience
      const events: Array<string> = []
      yield* Effect.forkChild(
        Stream.runForEach(resilience.events, (event) =>
          Effect.sync(() => (event._tag === "DeferredEnded" ? events.push(event.outcome) : 0))
        ),
        { startImmediately: true }
      )
      yield* LlmResilience.generateOrNotice({ prompt: "Hi", mayWait: true })
      yield* wait("1 minute")

      assert.deepStrictEqual(events, ["Answered"])
    }).pipe(Effect.provide(Layer.fresh(chain([fail("Overloaded"), answer("back again")]))))
  )
})

describe("LlmResilience.generateOrNotice", () => {
  const reply = (step: ScriptedProvider.Step, input?: Partial<LlmRequest.Input>) =>
    Effect.provide(
      LlmResilience.generateOrNotice({ prompt: "Hi", ...input }),
      Layer.fresh(chain([step], {}, { work: "elsewhere" }))
    )

  it.effect("has a value for every end", () =>
    Effect.gen(function* () {
      const answered = yield* reply(answer("Hello!"))
      const queued = yield* reply(fail("Overloaded"), { mayWait: true })
      const unavailable = yield* reply(fail("RateLimited"))
      const tooLong = yield* reply(fail("ContextLengthExceeded"))
      const rejected = yield* reply(fail("ContentPolicy"))
      const died = yield* reply(die("boom"))

      assert.strictEqual(answered._tag === "Answer" && answered.response.text, "Hello!")
      assert.strictEqual(queued._tag === "Queued" && queued.ticket === queued.notice.ticket, true)
      assert.strictEqual(unavailable._tag, "Unavailable")
      assert.strictEqual(
        tooLong._tag === "Unavailable" && tooLong.suggestion,
        "Ask for less: the request is too long for the models that are available."
      )
      assert.strictEqual(
        rejected._tag === "Rejected" && rejected.notice.message,
        "Your request was declined. Please ask in other words."
      )
      assert.strictEqual(died._tag, "Unavailable")
    })
  )

  it.effect("does not blame the request for an error that another provider might not have made", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail("ServerError")] })
      const resilience = yield* LlmResilience.make({
        steps: [{ provider: model, policy: Policy.none }],
        around: Policy.make(() => ({ generate: model.generate }))
      })

      const ended = yield* resilience.generateOrNotice(asking("Hi"))

      assert.strictEqual(ended._tag, "Unavailable")
    }).pipe(Effect.scoped)
  )
})
