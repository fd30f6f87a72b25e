import type { Snapshot } from "@llm-resilience/core/Circuit"
import type { LlmResilience } from "@llm-resilience/core/LlmResilience"
import type { Provider } from "@llm-resilience/core/Provider"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { dice } from "../dice.ts"
import * as Checks from "./checks.ts"
import type { Desk } from "./deferredChecks.ts"
import type * as Live from "./live.ts"
import { nameOf } from "./plan.ts"
import type { Kept } from "./references.ts"
import type { Place } from "./remote.ts"
import type { Stop } from "./replicas.ts"
import * as World from "./world.ts"

/** A process of the application, while it is up. */
export interface Replica {
  readonly place: Place
  readonly service: LlmResilience
  readonly checks: Checks.Checks
  /** Who is being answered in it. */
  readonly underway: Set<Visit>
}

export interface Visit {
  readonly of: Live.Live
  readonly fiber: Fiber.Fiber<unknown, unknown>
  /** His connection is gone. */
  readonly lost: () => void
}

/** The processes of the application: most plans have one for ever, in some they die and come back. */
export interface Fleet {
  readonly launch: Effect.Effect<void, never, Scope.Scope>
  readonly up: () => ReadonlyArray<Replica>
  /** Who answers a request, if anybody is up. */
  readonly of: (request: number) => Replica | undefined
  readonly heal: () => void
  /** All that was not killed holds nothing any more. */
  readonly atRest: Effect.Effect<void>
}

/** What a process is built with: `memory` is what the breakers of the one before it said when it was shut down. */
export interface Site {
  readonly place: Place
  readonly desk: Desk
  readonly providers: ReadonlyArray<Provider>
  readonly checks: Checks.Checks
  readonly memory: ReadonlyArray<Snapshot | undefined> | undefined
}

interface Memory {
  readonly snapshots: ReadonlyArray<Snapshot | undefined>
  readonly kept: ReadonlyArray<Kept | undefined>
}

export const make = (
  watch: Live.Run,
  shared: Checks.Shared,
  build: (site: Site) => Effect.Effect<LlmResilience, never, Scope.Scope>
): Fleet => {
  const { counts, plan, time, trace } = watch
  const { replicas } = plan
  const up = new Map<number, Replica & { readonly stop: (how: Stop["how"]) => Memory | undefined }>()
  const worlds: Array<World.World> = []
  const resting: Array<Checks.Checks> = []
  let isHealed = false

  const start = (number: number, place: Place, end: (how: Stop["how"]) => void, memory?: Memory) =>
    Effect.gen(function* () {
      const checks = Checks.make(watch, shared, memory?.kept)
      const seen = { started: checks.callStarted, ended: checks.callEnded }
      const world = World.make(plan, { ...time, at: place.at }, seen)
      worlds.push(world)
      if (isHealed) world.heal()
      const desk = shared.deferred.of(place, checks.steps)
      const service = yield* build({ place, desk, providers: world.providers, checks, memory: memory?.snapshots })
      const underway = new Set<Visit>()
      const stop = (how: Stop["how"]): Memory | undefined => {
        desk.close()
        const memory = how === "killed" ? undefined : remembered(service, checks)
        end(how)
        for (const { fiber, lost, of } of underway) {
          of.left = true
          if (how === "shutDown") fiber.interruptUnsafe()
          else {
            // Nobody cleans up, but the connections are cut.
            for (const call of of.calls) call.leaving = true
            of.endedAt = time.now()
            counts.left++
            lost()
          }
        }
        if (how === "shutDown") resting.push(checks)
        return memory
      }
      up.set(number, { place, service, checks, underway, stop })
    })

  const boot = (number: number, memory?: Memory): void => {
    const process = time.process()
    const place: Place = { ...process, isKilled: false }
    const end = (how: Stop["how"]): void => {
      if (how === "shutDown") return host.interruptUnsafe()
      place.isKilled = true
      process.kill()
    }
    const host = process.fork(Effect.scoped(Effect.andThen(start(number, place, end, memory), Effect.never)))
  }

  const remembered = ({ circuits }: LlmResilience, { steps }: Checks.Checks): Memory => ({
    snapshots: plan.steps.map((_, step) => {
      const circuit = circuits.get(nameOf(step))
      if (circuit === undefined) return undefined
      const snapshot = Effect.runSyncWith(time.context)(circuit.snapshot)
      // It is kept in a file, or wherever.
      return JSON.parse(JSON.stringify(snapshot)) as Snapshot
    }),
    kept: steps.references.map(({ breaker }) => breaker?.kept(time.now()))
  })

  const stopped = ({ downFor, how, replica }: Stop): void => {
    const found = up.get(replica)
    if (found === undefined) return
    trace.add(time.now(), how, 0, `process ${replica}`)
    counts[how]++
    up.delete(replica)
    const memory = found.stop(how)
    if (downFor !== undefined) time.at(time.now() + downFor, () => boot(replica, memory))
  }

  return {
    launch: Effect.suspend(() => {
      if (replicas === undefined) {
        return start(0, { at: time.at, fork: time.fork, isKilled: false }, () => {})
      }
      for (let number = 0; number < replicas.count; number++) boot(number)
      for (const stop of replicas.stops) time.at(stop.at, () => stopped(stop))
      return Effect.void
    }),
    up: () => [...up.values()],
    of: (request) => {
      if (up.size < 2) return up.values().next().value
      const all = [...up.values()]
      return all[dice(plan.seed, 302, request).int(0, all.length - 1)]
    },
    heal: () => {
      isHealed = true
      for (const world of worlds) world.heal()
      shared.limits.heal()
      shared.deferred.heal()
    },
    atRest: Effect.suspend(() => {
      for (const { checks } of up.values()) resting.push(checks)
      return Effect.forEach(resting, ({ steps }) => steps.atRest, { discard: true })
    })
  }
}
