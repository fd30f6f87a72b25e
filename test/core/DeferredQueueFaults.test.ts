import { assert, describe, it } from "@effect/vitest"
import {
  DeferredQueue,
  DeferredStore,
  LlmRequest,
  LlmResponse,
  Provider,
  ProviderError,
  ResilienceEvent
} from "@llm-resilience/core"
import { Duration, Effect, Fiber, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { type Fault, faulty, kinds } from "../support/faultyStore.ts"

type Store = DeferredStore.DeferredStore["Service"]

// Every operation, as often as it takes to see it go wrong when nothing else does.
const operations: Readonly<Record<keyof Store, number>> = {
  insert: 3,
  claim: 3,
  renew: 2,
  release: 1,
  settle: 6,
  cancel: 3,
  expire: 3,
  find: 3,
  counts: 3,
  dead: 3,
  requeue: 3,
  claimDelivery: 3,
  endDelivery: 3,
  prune: 1
}

const options = {
  lease: "6 seconds",
  storeWithin: "1 second",
  pollInterval: "1 second",
  backoff: "100 millis",
  maxBackoff: "1 second",
  maxAttempts: 20
} as const

const questionOf = (request: LlmRequest.LlmRequest): string => {
  const content = request.prompt.content.at(-1)?.content
  const part = typeof content === "string" ? undefined : content?.[0]
  return part?.type === "text" ? part.text : ""
}

/** Answers with the question, `slow` after a while, `again` and `bad` not the first time. */
const model = () => {
  const asked = new Map<string, number>()
  return Provider.make({
    id: "model",
    model: "m",
    generate: (request) =>
      Effect.suspend(() => {
        const question = questionOf(request)
        const nth = (asked.get(question) ?? 0) + 1
        asked.set(question, nth)
        const failed = (reason: "Overloaded" | "InvalidRequest") =>
          Effect.fail(new ProviderError.APIError({ provider: "model", reason, description: "" }))
        if (nth === 1 && question === "again") return failed("Overloaded")
        if (nth === 1 && question === "bad") return failed("InvalidRequest")
        const answer = Effect.succeed({ content: LlmResponse.textContent(question) })
        return question === "slow" ? Effect.delay(answer, "5 seconds") : answer
      })
  })
}

const enqueued = ["late", "unwanted", "plain", "again", "bad", "slow", "next"] as const

/** Everything that can become of a ticket: what a caller lives to see who tries again what the store would not do. */
const story = Effect.fnUntraced(function* (
  queues: ReadonlyArray<DeferredQueue.DeferredQueue["Service"]>,
  doing: (what: string) => void,
  isWell: () => boolean
) {
  const [queue] = queues
  if (queue === undefined) return yield* Effect.die("nobody")
  const insisting = <A, E extends { readonly _tag: string }>(what: string, effect: Effect.Effect<A, E>) => {
    const tried = Effect.suspend(() => {
      doing(what)
      return Effect.timed(Effect.result(effect))
    })
    const inTime = Effect.flatMap(tried, ([took, result]) => {
      assert.isAtMost(Duration.toMillis(took), 3000, `${what} took too long`)
      return Effect.fromResult(result)
    })
    return Effect.retry(inTime, {
      schedule: Schedule.spaced("1 second"),
      while: (error) => error._tag === "StoreError"
    })
  }
  const accept = (prompt: string) =>
    insisting(
      `accept ${prompt}`,
      queue.accept(LlmRequest.make({ prompt, mayWait: true }), {
        key: prompt,
        expiresAfter: prompt === "late" ? "1 second" : "1 hour"
      })
    )
  const end = (ticket: string) => Effect.retry(queue.await(ticket), { schedule: Schedule.spaced("1 second") })

  const tickets = new Map<string, string>()
  for (const prompt of enqueued) tickets.set(prompt, yield* accept(prompt))
  const ticketOf = (prompt: string) => tickets.get(prompt) ?? ""
  yield* insisting("cancel", queue.cancel(ticketOf("unwanted")))
  yield* Effect.sleep("2 seconds")
  const provider = model()
  const workers = yield* Effect.forEach(queues, ({ workOff }) => Effect.forkChild(workOff(provider)))
  const waiting = yield* Effect.forkChild(
    Effect.forEach(enqueued, (prompt) => Effect.map(end(ticketOf(prompt)), (settled) => [prompt, settled] as const), {
      concurrency: "unbounded"
    }),
    { startImmediately: true }
  )
  doing("await")
  const ends = new Map<string, DeferredQueue.Settled>(yield* Fiber.join(waiting))
  yield* insisting("list the dead", queue.deadLetters())
  yield* Effect.catchTag(insisting("queue again", queue.requeue(ticketOf("bad"))), "TicketUnknown", () => Effect.void)
  doing("await what was dead")
  ends.set("bad again", yield* end(ticketOf("bad")))
  while (!isWell()) {
    yield* insisting("look at all", queue.size)
    yield* insisting("look at one", queue.status(ticketOf("plain")))
    yield* Effect.sleep("1 second")
  }
  doing("await what came afterwards")
  tickets.set("afterwards", yield* accept("afterwards"))
  ends.set("afterwards", yield* end(ticketOf("afterwards")))
  yield* Effect.sleep("10 seconds")
  return { ends, tickets, workers, size: yield* queue.size }
})

const says = (settled: DeferredQueue.Settled | undefined): string | undefined =>
  settled?._tag === "Answered" ? settled.response.text : settled?._tag

/** Lives through a story over a store that is ill for a while, with a queue for each of so many processes. */
const outlives = Effect.fnUntraced(function* (operation: keyof Store, times: number, fault: Fault, processes: number) {
  const sound = yield* DeferredStore.makeMemory
  const error = new DeferredStore.StoreError({ operation, cause: "gone" })
  const { left, store } = faulty(sound, operation, fault, { error, times })
  const told = new Map<string, Array<string>>()
  const queues = yield* Effect.forEach(Array.from({ length: processes }), () =>
    DeferredQueue.make({
      ...options,
      onSettled: (settled) =>
        Effect.sync(() => void told.set(settled.ticket, [...(told.get(settled.ticket) ?? []), says(settled) ?? ""]))
    }).pipe(Effect.provideService(DeferredStore.DeferredStore, store))
  )
  let at = ""
  const doing = (what: string) => {
    at = what
  }
  const living = yield* Effect.forkChild(story(queues, doing, () => left() === 0))
  for (let second = 0; second < 240 && living.pollUnsafe() === undefined; second++) yield* TestClock.adjust("1 second")

  assert.isDefined(living.pollUnsafe(), `did not end: ${at}, ${left()} left`)
  const { ends, size, tickets, workers } = yield* Fiber.join(living)
  assert.deepStrictEqual(Object.fromEntries(Array.from(ends, ([prompt, settled]) => [prompt, says(settled)])), {
    late: "Expired",
    unwanted: "Cancelled",
    plain: "plain",
    again: "again",
    bad: "Dead",
    slow: "slow",
    next: "next",
    "bad again": "bad",
    afterwards: "afterwards"
  })
  // What was dead is queued again, perhaps before the handler heard of it.
  for (const [prompt, ticket] of tickets)
    assert.include(
      told.get(ticket) ?? [],
      says(ends.get(`${prompt} again`) ?? ends.get(prompt)),
      `the handler knows of ${prompt}`
    )
  assert.sameMembers(Array.from(told.keys()), Array.from(tickets.values()))
  assert.deepStrictEqual(size, { queued: 0, running: 0 })
  assert.isTrue(yield* stops(Fiber.interruptAll(workers)), "the workers stop")
})

/** Whether something has ended before the lease has. */
const stops = (stopping: Effect.Effect<unknown>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkDetach(stopping)
    yield* TestClock.adjust(options.lease)
    return fiber.pollUnsafe() !== undefined
  })

describe("DeferredQueue over a store that is ill for a while", () => {
  for (const operation of Object.keys(operations) as ReadonlyArray<keyof Store>) {
    it.effect.each(kinds)(`ends every ticket once when ${operation} %s`, (fault) =>
      outlives(operation, operations[operation], fault, 1)
    )

    it.effect.each(["loses its answer", "is done and hangs"] as const)(
      `ends every ticket once by two processes when ${operation} %s`,
      (fault) => outlives(operation, operations[operation], fault, 2)
    )
  }

  for (const operation of ["claim", "renew", "settle", "expire", "claimDelivery", "endDelivery"] as const) {
    it.effect(`stops while ${operation} cannot be stopped`, () =>
      Effect.gen(function* () {
        const sound = yield* DeferredStore.makeMemory
        const { asked, store } = faulty(sound, operation, "cannot be stopped", {
          error: undefined,
          times: Infinity
        })
        const queue = yield* DeferredQueue.make({ ...options, onSettled: () => Effect.void }).pipe(
          Effect.provideService(DeferredStore.DeferredStore, store)
        )
        yield* queue.accept(LlmRequest.make({ prompt: "slow", mayWait: true }))
        const worker = yield* Effect.forkDetach(queue.workOff(model()))
        for (let step = 0; step < 100 && asked() === 0; step++) yield* TestClock.adjust("100 millis")

        assert.isAbove(asked(), 0)
        assert.isTrue(yield* stops(Fiber.interrupt(worker)))
      })
    )
  }

  it.effect("counts no attempt when the store says too late what was claimed", () =>
    Effect.gen(function* () {
      const sound = yield* DeferredStore.makeMemory
      const error = undefined
      const { store } = faulty(sound, "claim", "is done and answers two seconds later", { error, times: 5 })
      const queue = yield* DeferredQueue.make({ ...options, maxAttempts: 2 }).pipe(
        Effect.provideService(DeferredStore.DeferredStore, store)
      )
      const ticket = yield* queue.accept(LlmRequest.make({ prompt: "plain", mayWait: true }))
      const worker = yield* Effect.forkChild(queue.workOff(model()))
      for (let second = 0; second < 30; second++) yield* TestClock.adjust("1 second")

      assert.deepInclude(yield* store.find(ticket), { state: "answered", attempts: 1 })
      yield* Fiber.interrupt(worker)
    })
  )

  it.effect.each(["fails", "hangs"] as const)("answers at once although expire %s every time", (fault) =>
    Effect.gen(function* () {
      const sound = yield* DeferredStore.makeMemory
      const error = new DeferredStore.StoreError({ operation: "expire", cause: "locked" })
      const { store } = faulty(sound, "expire", fault, { error, times: Infinity })
      const queue = yield* DeferredQueue.make({ ...options, concurrency: 1, every: 0 }).pipe(
        Effect.provideService(DeferredStore.DeferredStore, store)
      )
      const ticket = yield* queue.accept(LlmRequest.make({ prompt: "plain", mayWait: true }))
      const worker = yield* Effect.forkChild(queue.workOff(model()))
      yield* TestClock.adjust("100 millis")

      assert.strictEqual((yield* queue.status(ticket))._tag, "Answered")
      yield* Fiber.interrupt(worker)
    })
  )

  it.effect("tells of an answer whose commit the store could not confirm", () =>
    Effect.gen(function* () {
      const sound = yield* DeferredStore.makeMemory
      const error = new DeferredStore.StoreError({ operation: "settle", cause: "gone" })
      const { store } = faulty(sound, "settle", "loses its answer", { error, times: 1 })
      const hub = ResilienceEvent.makeHub()
      const seen: Array<string> = []
      yield* hub.listen((event) => seen.push(event._tag))
      const queue = yield* DeferredQueue.make(options).pipe(
        Effect.provideService(DeferredStore.DeferredStore, store),
        Effect.provideService(ResilienceEvent.CurrentHub, hub)
      )
      yield* queue.accept(LlmRequest.make({ prompt: "plain", mayWait: true }))
      const worker = yield* Effect.forkChild(queue.workOff(model()))
      yield* TestClock.adjust("2 seconds")

      assert.deepStrictEqual(seen, ["DeferredStoreFailed", "DeferredEnded"])
      yield* Fiber.interrupt(worker)
    })
  )

  it.effect("interrupts who asks now, when somebody who lost the lease asked as well and is done", () =>
    Effect.gen(function* () {
      const sound = yield* DeferredStore.makeMemory
      const { store } = faulty(sound, "renew", "hangs", { error: undefined, times: Infinity })
      const queue = yield* DeferredQueue.make(options).pipe(Effect.provideService(DeferredStore.DeferredStore, store))
      let interrupted = 0
      const slow = Provider.make({
        id: "slow",
        model: "m",
        generate: () =>
          Effect.as(Effect.sleep("8 seconds"), { content: LlmResponse.textContent("late") }).pipe(
            Effect.onInterrupt(() => Effect.sync(() => interrupted++))
          )
      })
      const ticket = yield* queue.accept(LlmRequest.make({ prompt: "slow", mayWait: true }))
      const workers = [yield* Effect.forkChild(queue.workOff(slow)), yield* Effect.forkChild(queue.workOff(slow))]
      for (let second = 0; second < 10; second++) yield* TestClock.adjust("1 second")
      const isFirst = yield* queue.cancel(ticket)
      yield* Effect.yieldNow

      assert.deepStrictEqual([isFirst, interrupted], [true, 1])
      yield* Fiber.interruptAll(workers)
    })
  )

  it.effect.each(["hangs", "throws"] as const)("tells the handler of every end, although it %s once", (how) =>
    Effect.gen(function* () {
      const told: Array<string> = []
      let calls = 0
      const queue = yield* DeferredQueue.make({
        ...options,
        deadline: "1 minute",
        onSettled: (settled) => {
          const isIll = calls++ === 0
          if (isIll && how === "throws") throw new Error("handler")
          return isIll ? Effect.never : Effect.sync(() => void told.push(says(settled) ?? ""))
        }
      })
      yield* queue.accept(LlmRequest.make({ prompt: "plain", mayWait: true }))
      const worker = yield* Effect.forkChild(queue.workOff(model()))
      yield* TestClock.adjust("1 second")
      yield* Effect.when(
        queue.accept(LlmRequest.make({ prompt: "next", mayWait: true })),
        Effect.succeed(how === "hangs")
      )
      for (let second = 0; second < 90; second++) yield* TestClock.adjust("1 second")

      assert.sameMembers(told, how === "hangs" ? ["next", "plain"] : ["plain"])
      yield* Fiber.interrupt(worker)
    }).pipe(Effect.provide(DeferredStore.layerMemory))
  )

  it.effect("waits for its store independently of a short lease", () =>
    Effect.gen(function* () {
      const sound = yield* DeferredStore.makeMemory
      const { store } = faulty(sound, "find", "takes two seconds", { error: undefined, times: 1 })
      const queue = yield* DeferredQueue.make({ lease: "300 millis" }).pipe(
        Effect.provideService(DeferredStore.DeferredStore, store)
      )
      const ticket = yield* queue.accept(LlmRequest.make({ prompt: "plain", mayWait: true }))
      const looking = yield* Effect.forkChild(queue.status(ticket))
      yield* TestClock.adjust("2 seconds")

      assert.strictEqual((yield* Fiber.join(looking))._tag, "Queued")
    })
  )
})
