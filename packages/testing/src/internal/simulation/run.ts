import * as CircuitBreaker from "@llm-resilience/core/CircuitBreaker"
import * as EmergencyCache from "@llm-resilience/core/EmergencyCache"
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as Policy from "@llm-resilience/core/Policy"
import type { Failure, Provider } from "@llm-resilience/core/Provider"
import type * as ResilienceEvent from "@llm-resilience/core/ResilienceEvent"
import * as Retry from "@llm-resilience/core/Retry"
import * as Tool from "effect/ai/Tool"
import * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as VirtualTime from "../../VirtualTime.ts"
import * as Checks from "./checks.ts"
import { asked, type Asked, type Plan, type Step } from "./plan.ts"
import { sealed } from "./sealed.ts"
import * as World from "./world.ts"

/** What became of a run. */
export interface Run {
  readonly plan: Plan
  readonly violation: Checks.Violation | undefined
  /** The same for the same plan, always and everywhere. */
  readonly fingerprint: string
  readonly lastEvents: ReadonlyArray<string>
  readonly requests: number
  readonly virtualMillis: number
  readonly counts: Checks.Checks["counts"]
}

/** Runs a plan: faults first, then everything heals and has to be well again. */
export const run = (plan: Plan, keptEvents?: number): Run =>
  sealed(() => {
    const time = VirtualTime.make({ seed: plan.seed, order: plan.order, preemption: plan.preemption })
    let stop = (): void => {}
    const checks = Checks.make(plan, time, keptEvents ?? 60, () => stop())
    const world = World.make(plan, time, { started: checks.callStarted, ended: checks.callEnded })
    let requests = 0

    const hub: ResilienceEvent.Hub = {
      active: () => true,
      publish: checks.onEvent,
      listen: () => Effect.void,
      stream: Stream.empty,
      end: Effect.void,
      dropped: () => 0
    }

    const ask = (service: LlmResilience.LlmResilience, asked: Asked, done: () => void): void => {
      requests++
      const request = requestOf(asked)
      const of: Checks.Live = {
        asked,
        request,
        startedAt: time.now(),
        id: 0,
        endedAt: undefined,
        left: false,
        readAt: time.now(),
        text: "",
        words: 0,
        finished: 0,
        served: undefined,
        calls: [],
        asks: [],
        attempts: [],
        final: false,
        budgeted: plan.chain.attempts
      }
      checks.live.set(asked.index, of)
      const fiber = time.fork(asked.stream ? read(service, of, request) : service.generate(request))
      const leave =
        asked.leavesAfter === undefined
          ? undefined
          : time.at(time.now() + asked.leavesAfter, () => {
              of.left = true
              fiber.interruptUnsafe()
            })
      fiber.addObserver((exit) => {
        leave?.()
        checks.ended(of, exit)
        done()
      })
    }

    const read = (
      service: LlmResilience.LlmResilience,
      of: Checks.Live,
      request: LlmRequest.LlmRequest
    ): Effect.Effect<void, Failure> => {
      const { readerPause, stopsAfter } = of.asked
      const parts = service.stream(request)
      return Stream.runForEach(stopsAfter === undefined ? parts : Stream.take(parts, stopsAfter), (part) => {
        checks.part(of, part)
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
    const underFaults = (service: LlmResilience.LlmResilience): Effect.Effect<void> =>
      Effect.callback((resume) => {
        stop = () => resume(Effect.void)
        let open = plan.requests.length
        const done = (): void => {
          if (--open === 0 && time.now() >= plan.millis) stop()
        }
        for (const request of asked(plan)) time.at(request.at, () => ask(service, request, done))
        for (const { action, at, duration, step } of plan.operator) {
          time.at(at, () => operate(service, checks, time, step, action, duration))
        }
        for (const { at, by } of plan.wallSteps) time.at(at, () => time.stepWall(by))
        time.at(plan.millis, () => {
          world.heal()
          if (open === 0) stop()
        })
        time.at(plan.millis + patience, () => {
          if (open > 0) checks.violate("everything ends", `${open} requests did not`)
          stop()
        })
      })

    // Long after everything healed, each step is asked until its breaker is closed; then all has to be as on the first day.
    const healed = (service: LlmResilience.LlmResilience): Effect.Effect<void> =>
      Effect.gen(function* () {
        let index = 1_000_000
        const one = Effect.callback<Checks.Live | undefined>((resume) => {
          const request = { ...calm, index, stream: index++ % 2 === 0 }
          ask(service, request, () => resume(Effect.succeed(checks.live.get(request.index))))
        })
        const order = plan.steps.map((step, index) => ({ ...step, index })).toSorted((a, b) => a.priority - b.priority)
        for (const { breaker, index: step, priority } of order) {
          const name = World.nameOf(step)
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
            if (checks.violation() !== undefined) return
            const state = circuit === undefined ? undefined : yield* circuit.state
            const closed = state === undefined || state._tag === "Closed"
            const rival = rivals.some((other) => World.nameOf(other.index) === served?.provider)
            if ((closed && served?.provider === name) || (optional && rival)) well++
            else if (!rival) well = 0
            if (tries-- === 0) {
              const doing = `${name} is ${state?._tag ?? "unguarded"}, ${served?.provider ?? "nobody"} serves`
              return checks.violate("after healing all is well", doing)
            }
            yield* Effect.sleep(state?._tag === "Open" ? patience : 15_000)
          }
          if (circuit === undefined) break
          operate(service, checks, time, step, "isolate", Infinity)
        }
        // Losers may still be cleaning up.
        yield* Effect.sleep(patience)
        yield* checks.atRest
      })

    const program = Effect.scoped(
      Effect.gen(function* () {
        const service = yield* stack(plan, world.providers, checks, hub)
        yield* underFaults(service)
        if (checks.violation() !== undefined) return
        yield* Effect.sleep(patience)
        yield* healed(service)
      })
    )
    const ending = time.run(program)
    if (ending._tag !== "Ended") checks.violate("everything ends", `a ${ending._tag.toLowerCase()}`)
    else if (ending.exit._tag === "Failure") checks.violate("no defect", String(ending.exit.cause))
    return {
      plan,
      violation: checks.violation(),
      fingerprint: checks.trace.fingerprint(),
      lastEvents: checks.violation() === undefined && keptEvents === undefined ? [] : checks.trace.lines(),
      requests,
      virtualMillis: ending.at,
      counts: checks.counts
    }
  })

/** More than the longest rest, opening and request: after it nothing of the faults is left. */
const patience = 1_200_000

const calm: Asked = {
  index: 0,
  at: 0,
  stream: false,
  deadline: undefined,
  leavesAfter: undefined,
  readerPause: 0,
  stopsAfter: undefined,
  question: 0,
  scope: 0,
  toolset: 0,
  kind: "ordinary",
  mayCache: false,
  priority: "normal"
}

const toolsets: ReadonlyArray<ReadonlyArray<Tool.Any>> = [[], [Tool.make("search", {})]]

const requestOf = (asked: Asked): World.Marked => ({
  ...LlmRequest.make({
    prompt: `${asked.kind} q${asked.question}`,
    scope: `s${asked.scope}`,
    tools: toolsets[asked.toolset] ?? [],
    mayCache: asked.mayCache,
    priority: asked.priority,
    ...(asked.deadline === undefined ? {} : { deadline: Duration.millis(asked.deadline) })
  }),
  simulated: asked.index
})

const stack = (
  plan: Plan,
  providers: ReadonlyArray<Provider>,
  checks: Checks.Checks,
  hub: ResilienceEvent.Hub
): Effect.Effect<LlmResilience.LlmResilience, never, Scope.Scope> => {
  const steps = plan.steps.map((step, index) => ({
    // There are as many providers as steps.
    provider: providers[index] as Provider,
    policy: policyOf(step, checks.resting(index), checks.calling(index), checks.built),
    priority: step.priority,
    weight: step.weight
  }))
  if (!Arr.isArrayNonEmpty(steps)) throw new RangeError("Simulation: a plan has at least one step")
  const note = Policy.make((self) => ({
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
  const { cache, chain, health } = plan
  const options = {
    steps,
    deadline: chain.deadline,
    attempts: chain.attempts,
    fallback: {
      ...chain,
      hedge: chain.hedge === undefined ? undefined : { after: chain.hedge },
      routing: { strategy: chain.routing }
    },
    health: health === undefined ? undefined : { ...health, checks: "on" as const },
    hub
  }
  if (cache === undefined) return LlmResilience.make({ ...options, around: note })
  const caching = EmergencyCache.policy({ mode: cache.mode, slowAfter: cache.slowAfter })
  return Effect.provide(
    LlmResilience.make({ ...options, around: Policy.all([note, caching]) }),
    EmergencyCache.layerMemory({
      secret: Redacted.make("the secret of a simulation"),
      fresh: Math.min(cache.fresh, cache.stale),
      staleIfError: cache.stale,
      maxEntries: 100
    })
  )
}

const policyOf = (
  step: Step,
  resting: Policy.Policy,
  calling: Policy.Policy,
  built: (provider: Provider) => void
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
      circuitBreaker: breaker === undefined ? "off" : { ...breaker, trip: tripOf(breaker.trip) }
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
  service: LlmResilience.LlmResilience,
  checks: Checks.Checks,
  time: VirtualTime.VirtualTime,
  step: number,
  action: Plan["operator"][number]["action"],
  duration: number
): void => {
  const circuit = service.circuits.get(World.nameOf(step))
  const reference = checks.steps[step]
  if (circuit === undefined || reference?.breaker === undefined) return
  const now = time.now()
  checks.trace.add(now, action, 0, World.nameOf(step))
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
