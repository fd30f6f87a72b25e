import type { Snapshot } from "@llm-resilience/core/Circuit"
import * as CircuitBreaker from "@llm-resilience/core/CircuitBreaker"
import * as DeferredQueue from "@llm-resilience/core/DeferredQueue"
import * as Embedder from "@llm-resilience/core/Embedder"
import * as EmergencyCache from "@llm-resilience/core/EmergencyCache"
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as Policy from "@llm-resilience/core/Policy"
import type { Failure, Provider } from "@llm-resilience/core/Provider"
import type * as ResilienceEvent from "@llm-resilience/core/ResilienceEvent"
import * as Retry from "@llm-resilience/core/Retry"
import * as SimilarAnswers from "@llm-resilience/core/SimilarAnswers"
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as VirtualTime from "../../VirtualTime.ts"
import { dice } from "../dice.ts"
import * as Checks from "./checks.ts"
import { type DeferredChecks, type Desk, queuesOf } from "./deferredChecks.ts"
import { asked } from "./drawing.ts"
import * as Fleet from "./fleet.ts"
import { promptOf, Reply } from "./knowledge.ts"
import * as Live from "./live.ts"
import { type Asked, nameOf, ordinary, type Plan, type Step } from "./plan.ts"
import { sealed } from "./sealed.ts"
import type * as World from "./world.ts"

/** What became of a run. */
export interface Run {
  readonly plan: Plan
  readonly violation: Live.Violation | undefined
  /** The same for the same plan, always and everywhere. */
  readonly fingerprint: string
  readonly lastEvents: ReadonlyArray<string>
  readonly requests: number
  readonly virtualMillis: number
  readonly counts: Live.Counts
}

/** Runs a plan: faults first, then everything heals and has to be well again. */
export const run = (plan: Plan, keptEvents?: number): Run =>
  sealed(dice(plan.seed, 5), () => {
    const time = VirtualTime.make({ seed: plan.seed, order: plan.order, preemption: plan.preemption })
    let stop = (): void => {}
    const watch = Live.make(plan, time, keptEvents ?? 60, () => stop())
    const shared = Checks.shared(watch)
    const fleet = Fleet.make(watch, shared, (site) => stack(plan, site))
    let requests = 0

    const ask = ({ checks, place, service, underway }: Fleet.Replica, asked: Asked, done: () => void): void => {
      requests++
      const request = requestOf(asked)
      const of = Live.begin(watch, asked, request)
      const fiber = place.fork(asked.stream ? read(service, of, request) : service.generate(request))
      const leave =
        asked.leavesAfter === undefined
          ? undefined
          : time.at(time.now() + asked.leavesAfter, () => {
              of.left = true
              fiber.interruptUnsafe()
            })
      const gone = (): void => {
        leave?.()
        done()
      }
      const visit: Fleet.Visit = { of, fiber, lost: gone }
      underway.add(visit)
      fiber.addObserver((exit) => {
        underway.delete(visit)
        checks.ended(of, exit)
        gone()
      })
    }

    const read = (
      service: LlmResilience.LlmResilience,
      of: Live.Live,
      request: LlmRequest.LlmRequest
    ): Effect.Effect<void, Failure> => {
      const { readerPause, stopsAfter } = of.asked
      const parts = service.stream(request)
      return Stream.runForEach(stopsAfter === undefined ? parts : Stream.take(parts, stopsAfter), (part) => {
        shared.answers.part(of, part)
        of.readAt = time.now()
        if (readerPause === 0) return Effect.void
        return Effect.andThen(
          Effect.sleep(readerPause),
          Effect.sync(() => {
            of.readAt = time.now()
          })
        )
      })
    }

    // Traffic, operators and clocks, until everything that was asked has ended.
    const underFaults: Effect.Effect<void> = Effect.callback((resume) => {
      stop = () => resume(Effect.void)
      let open = plan.requests.length
      const done = (): void => {
        if (--open === 0 && time.now() >= plan.millis) stop()
      }
      for (const request of asked(plan)) {
        time.at(request.at, () => {
          const replica = fleet.of(request.index)
          if (replica === undefined) done()
          else ask(replica, request, done)
        })
      }
      for (const { action, at, duration, step } of plan.operator) {
        time.at(at, () => {
          for (const replica of fleet.up()) operate(replica, watch, step, action, duration)
        })
      }
      for (const at of plan.requeues) time.at(at, shared.deferred.requeue)
      for (const { at, by } of plan.wallSteps) time.at(at, () => time.stepWall(by))
      time.at(plan.millis, () => {
        fleet.heal()
        if (open === 0) stop()
      })
      time.at(plan.millis + patience, () => {
        if (open > 0) watch.violate("everything ends", `${open} requests did not`)
        stop()
      })
    })

    // Long after everything healed, each step is asked until its breaker is closed; then all has to be as on the first day.
    let index = 1_000_000
    const healed = (replica: Fleet.Replica): Effect.Effect<void> =>
      Effect.gen(function* () {
        const { service } = replica
        const one = Effect.callback<Live.Live | undefined>((resume) => {
          const request = { ...ordinary, index, stream: index++ % 2 === 0 }
          ask(replica, request, () => resume(Effect.succeed(watch.live.get(request.index))))
        })
        const order = plan.steps.map((step, index) => ({ ...step, index })).toSorted((a, b) => a.priority - b.priority)
        for (const { breaker, index: step, priority } of order) {
          const name = nameOf(step)
          const circuit = service.circuits.get(name)
          // Steps of equal priority take turns.
          const rivals = order.filter((other) => other.priority === priority && other.index !== step)
          // Whoever is slower than a rival need not be asked, and so not be probed.
          const optional = rivals.length > 0 && plan.chain.routing === "least-latency"
          // A window may still hold enough of the bad days to open the circuit once more.
          const window = breaker?.trip._tag === "Count" ? 2 * breaker.trip.size : 10
          let tries = (3 * (breaker?.probes ?? 1) + window) * (rivals.length + 1) * 2
          let well = 0
          while (well < 2) {
            const served = (yield* one)?.served
            if (watch.violation() !== undefined) return
            const state = circuit === undefined ? undefined : yield* circuit.state
            const closed = state === undefined || state._tag === "Closed"
            const rival = rivals.some((other) => nameOf(other.index) === served?.provider)
            if ((closed && served?.provider === name) || (optional && rival)) well++
            else if (!rival) well = 0
            if (tries-- === 0) {
              const doing = `${name} is ${state?._tag ?? "unguarded"}, ${served?.provider ?? "nobody"} serves`
              return watch.violate("after healing all is well", doing)
            }
            yield* Effect.sleep(state?._tag === "Open" ? calm : 15_000)
          }
          if (circuit === undefined) break
          operate(replica, watch, step, "isolate", Infinity)
        }
      })
    const allHealed = Effect.gen(function* () {
      // Who works the queue off is the first to find out that all is well.
      for (let tries = 0; shared.deferred.open() > 0; tries++) {
        if (tries === 200) return watch.violate("every ticket ends", `${shared.deferred.open()} have not`)
        yield* Effect.sleep(60_000)
      }
      for (const replica of fleet.up()) yield* healed(replica)
      // Losers may still be cleaning up.
      yield* Effect.sleep(30_000)
      yield* fleet.atRest
      yield* shared.deferred.atRest
      yield* shared.limits.atRest
    })

    const program = Effect.scoped(
      Effect.gen(function* () {
        yield* fleet.launch
        yield* underFaults
        if (watch.violation() !== undefined) return
        yield* Effect.sleep(calm)
        yield* allHealed
      })
    )
    const ending = time.run(program)
    if (ending._tag !== "Ended") watch.violate("everything ends", `a ${ending._tag.toLowerCase()}`)
    else if (ending.exit._tag === "Failure") watch.violate("no defect", String(ending.exit.cause))
    return {
      plan,
      violation: watch.violation(),
      fingerprint: watch.trace.fingerprint(),
      lastEvents: watch.violation() === undefined && keptEvents === undefined ? [] : watch.trace.lines(),
      requests,
      virtualMillis: ending.at,
      counts: watch.counts
    }
  })

/** More than any request may take. */
const patience = 1_200_000

/** More than the longest rest and opening: after it nothing of the faults is left. Who checks and polls is busy all the while. */
const calm = 200_000

const toolsets: ReadonlyArray<ReadonlyArray<Tool.Any>> = [
  [],
  [Tool.make("search", { parameters: Schema.Struct({ about: Schema.String }) })]
]

const json: LlmRequest.ResponseFormat = { type: "json", objectName: "reply", schema: Reply }
const prompts = new Map<string, Prompt.Prompt>()

const requestOf = (asked: Asked): World.Marked => {
  const text = promptOf(asked)
  const prompt = prompts.get(text) ?? Prompt.make(text)
  prompts.set(text, prompt)
  return Object.assign(
    LlmRequest.make({
      prompt,
      scope: `s${asked.scope}`,
      tools: toolsets[asked.toolset] ?? [],
      responseFormat: asked.wanted === "json" ? json : undefined,
      mayCache: asked.mayCache,
      mayWait: asked.mayWait,
      priority: asked.priority,
      deadline: asked.deadline
    }),
    { simulated: asked.index }
  )
}

const stack = (
  plan: Plan,
  { checks, desk, memory, place, providers }: Fleet.Site
): Effect.Effect<LlmResilience.LlmResilience, never, Scope.Scope> =>
  Effect.gen(function* () {
    const hub: ResilienceEvent.Hub = {
      active: () => true,
      publish: checks.onEvent,
      listen: () => Effect.void,
      stream: Stream.empty,
      end: Effect.void,
      dropped: () => 0
    }
    const steps = plan.steps.map((step, index) => ({
      // There are as many providers as steps.
      provider: providers[index] as Provider,
      policy: policyOf(
        step,
        Policy.all([checks.steps.resting(index), checks.limits.policy(index, place)]),
        checks.steps.calling(index),
        checks.steps.built,
        memory?.[index]
      ),
      priority: step.priority,
      weight: step.weight
    }))
    if (!Arr.isArrayNonEmpty(steps)) throw new RangeError("Simulation: a plan has at least one step")
    const { chain, health } = plan
    return yield* LlmResilience.make({
      steps,
      deadline: chain.deadline,
      attempts: chain.attempts,
      fallback: {
        ...chain,
        hedge: chain.hedge === undefined ? undefined : { after: chain.hedge },
        routing: { strategy: chain.routing }
      },
      health: health === undefined ? undefined : { ...health, checks: "on" as const },
      hub,
      around: Policy.all([noting(checks), yield* waiting(plan, checks.deferred, desk), yield* caching(plan)])
    })
  })

const noting = (checks: Checks.Checks): Policy.Policy =>
  Policy.make((self) => ({
    keepsDeadline: self.keepsDeadline,
    generate: (request) => {
      checks.accepted(request)
      return self.generate(request)
    },
    stream: (request) => {
      checks.accepted(request)
      return self.stream(request)
    }
  }))

const waiting = ({ deferred }: Plan, checks: DeferredChecks, desk: Desk): Effect.Effect<Policy.Policy> =>
  deferred === undefined
    ? Effect.succeed(Policy.none)
    : Effect.map(queuesOf(desk, checks, deferred), ({ first, others }) =>
        Policy.all<ReadonlyArray<Policy.Policy>>([
          Effect.fnUntraced(function* (self) {
            for (const queue of others) yield* Effect.forkScoped(queue.workOff(self))
            const policy = DeferredQueue.policy({ terms: checks.terms })
            return yield* Effect.provideService(policy(self), DeferredQueue.DeferredQueue, first)
          }),
          desk.asking
        ])
      )

const caching = ({ cache }: Plan): Effect.Effect<Policy.Policy, never, Scope.Scope> => {
  if (cache === undefined) return Effect.succeed(Policy.none)
  const { embedding, fresh, match, mode, slowAfter, stale } = cache
  const answers = EmergencyCache.layerMemory({
    secret: Redacted.make("the secret of a simulation"),
    fresh: Math.min(fresh, stale),
    staleIfError: stale,
    maxEntries: 100
  })
  // To this one all questions are the same, so that nothing but the guard keeps them apart.
  const embedder = Layer.succeed(Embedder.Embedder, {
    id: "simulated",
    dimensions: 2,
    maxTokens: 256,
    threshold: 0.9,
    embed: (texts) =>
      Effect.as(
        Effect.sleep(embedding),
        texts.map(() => [1, 0])
      )
  })
  const similar = Layer.provide(SimilarAnswers.layer({ maxEntries: 50 }), embedder)
  return Effect.map(
    Layer.build(match === "exact" ? answers : Layer.provide(answers, similar)),
    (context) => (self) => Effect.provideContext(EmergencyCache.policy({ mode, slowAfter, match })(self), context)
  )
}

const policyOf = (
  step: Step,
  resting: Policy.Policy,
  calling: Policy.Policy,
  built: (provider: Provider) => void,
  restore: Snapshot | undefined
): Policy.Policy => {
  const { adaptive, breaker, budget, bulkhead, cooldown, hedge, rateLimit, retry, throttle, timeouts } = step
  const off = {
    retry: "off",
    cooldown: "off",
    throttle: "off",
    circuitBreaker: "off",
    budget: "off",
    vitals: "off",
    timeouts: "off",
    outputGuard: "off"
  } as const
  // The standard policy, taken apart where the checks look in.
  return Policy.all([
    (self) =>
      Effect.map(
        Effect.sync(() => built(self)),
        () => self
      ),
    LlmResilience.standard({
      ...off,
      bulkhead: bulkhead ?? "off",
      hedge: hedge === undefined ? "off" : { after: hedge },
      retry: retry === undefined ? "off" : { schedule: Retry.exponential(retry), maxRetryAfter: retry.maxRetryAfter },
      cooldown: cooldown === undefined ? "off" : { ...cooldown, maxIsolation: "24 hours" }
    }),
    resting,
    LlmResilience.standard({
      ...off,
      throttle: throttle ?? "off",
      rateLimit: rateLimit ?? "off",
      adaptiveConcurrency:
        adaptive === undefined ? "off" : { ...adaptive, initial: adaptive.permits, max: 2 * adaptive.permits },
      circuitBreaker: breaker === undefined ? "off" : { ...breaker, trip: tripOf(breaker.trip), restore }
    }),
    calling,
    LlmResilience.standard({
      ...off,
      budget: budget ?? "off",
      vitals: undefined,
      timeouts,
      outputGuard: undefined
    })
  ])
}

const tripOf = (trip: NonNullable<Step["breaker"]>["trip"]) => {
  switch (trip._tag) {
    case "Consecutive":
      return CircuitBreaker.consecutive(trip.failures)
    case "Count":
      return CircuitBreaker.countWindow(trip)
    case "Time":
      return CircuitBreaker.timeWindow({ ...trip, duration: trip.millis })
  }
}

const operate = (
  { checks, service }: Fleet.Replica,
  { time, trace }: Live.Run,
  step: number,
  action: Plan["operator"][number]["action"],
  duration: number
): void => {
  const circuit = service.circuits.get(nameOf(step))
  const reference = checks.steps.references[step]
  if (circuit === undefined || reference?.breaker === undefined) return
  const now = time.now()
  trace.add(now, action, 0, nameOf(step))
  switch (action) {
    case "isolate":
      reference.breaker.isolate(now, duration)
      time.fork(circuit.isolate("by hand", { duration }))
      return
    case "reset":
      reference.breaker.reset(now)
      reference.rest?.wake(now)
      time.fork(circuit.reset)
      return
    case "halfOpen":
      reference.breaker.halfOpen(now)
      time.fork(Effect.ignore(circuit.halfOpen))
  }
}
