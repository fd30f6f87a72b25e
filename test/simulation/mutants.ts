// Plants one bug at a time into the policies and lets the simulator look for it.
//
//   npm run mutants                         all of them, at most 1000 seeds each
//   npm run mutants -- --only permit        those whose name contains a word
//
// A mutant is a small change of one source file, made while the module is loaded, in a process of its own. The script fails when a
// mutant survives, and when a change no longer applies, because then it proves nothing any more.
import { spawnSync } from "node:child_process"
import { registerHooks } from "node:module"
import { parseArgs } from "node:util"

interface Change {
  readonly file: string
  readonly from: string
  readonly to: string
}

interface Mutant extends Change {
  readonly name: string
  /** What else has to change, where the same thing is guarded twice. */
  readonly also?: Change | ReadonlyArray<Change>
}

const core = (file: string) => `/packages/core/src/${file}`

const mutants: ReadonlyArray<Mutant> = [
  {
    name: "probe slot leaked when the caller leaves",
    file: core("CircuitBreaker.ts"),
    from: `          settle: (admission, outcome, now) => {`,
    to: `          settle: (admission, outcome, now) => {
            if (outcome._tag === "Abandoned") return Effect.void`
  },
  {
    name: "no generation fence",
    file: core("Circuit.ts"),
    from: `if (event.admission.generation !== state.generation) return [state, dropped]`,
    to: ``
  },
  {
    name: "shorter of two rests kept",
    file: core("Cooldown.ts"),
    from: `if (now + millis <= ref.ref.current.until) return`,
    to: ``
  },
  {
    name: "retry after the first content",
    file: core("Retry.ts"),
    from: `open(self.id, self.stream(request), scope),`,
    to: `open(self.id, Stream.catch(self.stream(request), () => self.stream(request)), scope),`,
    also: {
      file: core("Retry.ts"),
      from: `import * as Schedule from "effect/Schedule"`,
      to: `import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"`
    }
  },
  {
    name: "deadline not given to the step",
    file: core("Fallback.ts"),
    from: `const request = LlmRequest.allow(LlmRequest.start(asked, now))`,
    to: `const request = LlmRequest.allow({ ...asked, deadline: undefined })`
  },
  {
    name: "cache key without tools",
    file: core("CacheKey.ts"),
    from: `request.tools.map(toolShape),`,
    to: ``
  },
  {
    name: "cache key without scope",
    file: core("CacheKey.ts"),
    from: `                request.scope ?? null,
                request.subject ?? null,`,
    to: ``,
    also: {
      file: core("CacheKey.ts"),
      from: `scope: scope(request.scope), subject: subject(request.scope, request.subject)`,
      to: `scope: scope(undefined), subject: subject(undefined, request.subject)`
    }
  },
  {
    name: "refusal of an inner chain counted as a failure",
    file: core("CircuitBreaker.ts"),
    from: `        return { verdict: "ignored", retryAfter: 0 }
      const retryAfter`,
    to: `        return { verdict: outcome._tag === "Failed" ? "failure" : "ignored", retryAfter: 0 }
      const retryAfter`
  },
  {
    name: "wall clock instead of monotonic time",
    file: core("internal/monotonic.ts"),
    from: `Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000`,
    to: `clock.currentTimeMillisUnsafe()`
  },
  {
    name: "caller who leaves counted as a failure",
    file: core("CircuitBreaker.ts"),
    from: `if (outcome._tag === "Abandoned" || outcome.error._tag === "LlmUnavailable")`,
    to: `if (outcome._tag === "Abandoned") return { verdict: "failure", retryAfter: 0 }
      if (outcome.error._tag === "LlmUnavailable")`
  },
  {
    name: "lease of a probe never ends",
    file: core("Circuit.ts"),
    from: `const expired = state.leases.find((lease) => lease.until <= now)`,
    to: `const expired = undefined as { readonly until: number } | undefined`
  },
  {
    name: "one probe too many",
    file: core("Circuit.ts"),
    from: `return state.leases.length + state.calls < settings.probes`,
    to: `return state.leases.length + state.calls <= settings.probes`
  },
  {
    name: "success of an old call wakes a resting provider",
    file: core("Cooldown.ts"),
    from: `if (outcome._tag === "Succeeded" && ticket === "lastResort")`,
    to: `if (outcome._tag === "Succeeded")`
  },
  {
    name: "Retry-After not waited out",
    file: core("Retry.ts"),
    from: `const delay = asked === undefined ? planned[1] : Duration.max(planned[1], asked)`,
    to: `const delay = planned[1]`
  },
  {
    name: "an invalid request falls over",
    file: core("internal/walk.ts"),
    from: `if (decision.fallOver === "no") {`,
    to: `if (decision.fallOver === undefined) {`
  },
  {
    name: "a cut stream ends as a success",
    file: core("Provider.ts"),
    from: `            onDone: () =>
              Effect.fail(`,
    to: `            onDone: (): PartsPull => Cause.done() ?? Effect.fail(`
  },
  {
    name: "prefix not suppressed after a restart",
    file: core("internal/seam.ts"),
    from: `return [suppressing(seam.expected, seam.at + due.length), text.slice(due.length)]`,
    to: `return [open, text]`
  },
  {
    name: "loser not stopped by the attempt timeout",
    file: core("internal/within.ts"),
    from: `      worker.interruptUnsafe()
      if (worker.pollUnsafe() !== undefined || grace === Infinity) return`,
    to: `      if (grace === Infinity) return`
  },
  {
    name: "first token awaited only from the first part on",
    file: core("Timeouts.ts"),
    from: `[sentAt + firstToken, "firstToken"],`,
    to: `[phase === "connect" ? Infinity : sentAt + firstToken, "firstToken"],`
  },
  {
    name: "late stream cleaned up in front of the reader",
    file: core("internal/watch.ts"),
    from: `            if (!abandoned) {
              abandoned = true`,
    to: `            if (abandoned) {
              abandoned = true`
  },
  {
    name: "stale answer served for ever",
    file: core("EmergencyCache.ts"),
    from: `if (age < -60_000 || age >= staleIfError) return Effect.succeed("expired")`,
    to: ``,
    also: {
      file: core("CacheStore.ts"),
      from: `if (found === undefined || found.expiresAt > clock.currentTimeMillisUnsafe())`,
      to: `if (found === undefined || found.expiresAt > 0)`
    }
  },
  {
    name: "budget not shared between requests",
    file: core("Budget.ts"),
    from: `        if (next !== undefined) {
          state = next`,
    to: `        {
          state = next ?? state`
  },
  {
    name: "attempts of a request not counted",
    file: core("Retry.ts"),
    from: `if (request.allowance.left <= request.stepsLeft) return yield* Effect.fail(error)`,
    to: ``
  },
  {
    name: "permit not returned when the caller leaves",
    file: core("internal/gatekeeper.ts"),
    from: `          leave(ticket)
          return Effect.void`,
    to: `          if (outcome._tag !== "Abandoned") leave(ticket)
          return Effect.void`
  },
  {
    name: "place in the line not returned when a waiter leaves",
    file: core("internal/gatekeeper.ts"),
    from: `if (Exit.isFailure(exit)) leave(ticket)`,
    to: ``
  },
  {
    name: "queue without a bound",
    file: core("Gate.ts"),
    from: `if (waitingAt(state) < settings.queue) return`,
    to: `if (waitingAt(state) < 1000) return`,
    also: {
      file: core("Gate.ts"),
      from: `waitingAt(state) < settings.queue || weakest`,
      to: `waitingAt(state) < 1000 || weakest`
    }
  },
  {
    name: "tripped step never comes back among its equals",
    file: core("Routing.ts"),
    from: `isBack(provider, now) ? "healthy" : (provider.health?.(now) ?? "healthy")`,
    to: `provider.health?.(now) ?? "healthy"`
  },
  {
    name: "stream of a slow start counted twice",
    file: core("CircuitBreaker.ts"),
    from: `apply({ _tag: "Began", admission }, now)`,
    to: `apply({ _tag: "Record", admission, verdict: "success", duration, retryAfter: 0 }, now)`
  },
  {
    name: "loser of a hedge not stopped",
    file: core("internal/racing.ts"),
    from: `for (const fiber of running) fiber.interruptUnsafe()
        resume(exit)`,
    to: `resume(exit)`
  },
  {
    name: "upstream not aborted when the reader leaves",
    file: core("internal/watch.ts"),
    from: `return abandoned ? Effect.void : Scope.close(inner, exit)`,
    to: `return Effect.void`
  },
  {
    name: "deferred queue without a bound",
    file: core("internal/deferredMemory.ts"),
    from: `if (pending.size >= capacity) return { _tag: "Full" }`,
    to: ``
  },
  {
    name: "backlog worked off while everybody refuses",
    file: core("internal/backlog.ts"),
    from: `if (reason !== undefined) {`,
    to: `if (false) {`
  },
  {
    name: "expired ticket still asked for",
    file: core("internal/deferredMemory.ts"),
    from: `if (!due || held.row.expiresAt <= now) continue`,
    to: `if (!due) continue`
  },
  {
    name: "idempotency key not looked at",
    file: core("internal/deferredMemory.ts"),
    from: `const known = entry.key === undefined ? undefined : keys.get(entry.key)`,
    to: `const known = undefined as string | undefined`
  },
  {
    name: "idempotency key without scope",
    file: core("DeferredQueue.ts"),
    from: `JSON.stringify([request.scope ?? null, terms.key])`,
    to: `JSON.stringify([terms.key])`
  },
  {
    name: "cancelled ticket asked on",
    file: core("DeferredQueue.ts"),
    from: `asking.get(ticket)?.interruptUnsafe()`,
    to: ``
  },
  {
    name: "failed try of a ticket not counted",
    file: core("internal/backlog.ts"),
    from: `const refund = untriedFor !== undefined`,
    to: `const refund = true`
  },
  {
    name: "calls for a ticket without a bound",
    file: core("internal/requests.ts"),
    from: `  generate: (asked) => self.generate(LlmRequest.allow(asked, attempts)),`,
    to: `  generate: (asked) => self.generate(asked),`
  },
  {
    name: "similar question believed without the guard",
    file: core("SimilarAnswers.ts"),
    from: `if (difference === undefined) return Option.some(`,
    to: `return Option.some(`
  },
  {
    name: "similar question of another scope",
    file: core("SimilarAnswers.ts"),
    from: `store.find(scopeName, `,
    to: `store.find("", `,
    also: [
      { file: core("SimilarAnswers.ts"), from: `store.nearest(scopeName, `, to: `store.nearest("", ` },
      { file: core("SimilarAnswers.ts"), from: `store.put({ scope: scopeName, `, to: `store.put({ scope: "", ` },
      {
        file: core("EmergencyCache.ts"),
        from: `if (entry.partition !== key.partition || entry.key !== at) return unusable("another partition or key")`,
        to: ``
      }
    ]
  },
  {
    name: "similar question for tools and JSON",
    file: core("EmergencyCache.ts"),
    from: `request.cacheMatch ?? (request.tools.length > 0 || request.responseFormat.type === "json" ? "exact" : "similar")`,
    to: `request.cacheMatch ?? "similar"`
  },
  {
    name: "call of a tool stored and served again",
    file: core("internal/cacheEntry.ts"),
    from: `if (called && !toolCalls) return "tool calls"`,
    to: ``
  },
  {
    name: "call of a tool begun twice",
    file: core("internal/recovery.ts"),
    from: `    default:
      return { ...emitted, beyondText: true }`,
    to: `    default:
      return emitted`
  },
  {
    name: "JSON of another shape accepted",
    file: core("OutputGuard.ts"),
    from: `if (issues === undefined) return accepted`,
    to: `return accepted`
  },
  {
    name: "repair beyond the attempts",
    file: core("OutputGuard.ts"),
    from: `const isSpent = request.allowance.left <= request.stepsLeft`,
    to: `const isSpent = false`
  },
  {
    name: "meters kept for each process",
    file: core("RateLimit.ts"),
    from: `build(settings, failing(store), options.key, storeWithin)`,
    to: `build(settings, store === undefined ? store : RateLimitStore.makeMemory(), options.key, storeWithin)`
  },
  {
    name: "meter never emptied",
    file: core("RateLimitStore.ts"),
    from: `const after = taken ? Meter.take(own, part.amount, now) : own`,
    to: `const after = own`
  },
  {
    name: "shared limit kept by who leaves while waiting",
    file: core("RateLimit.ts"),
    from: `Exit.isFailure(exit) ? tell(self.id, store.give(key, marked(ticket))) : Effect.void`,
    to: `exit._tag === "Failure" && !isLocal ? Effect.void : Effect.void`
  },
  {
    name: "shared limit kept by a call that was not sent",
    file: core("RateLimit.ts"),
    from: `return { requests: 1, input, output }`,
    to: `return { requests: 0, input, output }`
  },
  {
    name: "store of limits waited for without limit",
    file: core("RateLimit.ts"),
    from: `within(Effect.interruptible(effect), storeWithin, tooLate(operation), 0)`,
    to: `within(Effect.interruptible(effect), 1e9, tooLate(operation), 0)`
  },
  {
    name: "store of limits waited for beyond the deadline",
    file: core("RateLimit.ts"),
    from: `return isLocal || request.expiresAt === Infinity ? taking : inTime(`,
    to: `return request.expiresAt > 0 ? taking : inTime(`
  },
  {
    name: "call refused because the store of limits failed",
    file: core("RateLimit.ts"),
    from: `onFailure: (cause) => Effect.as(report(self.id, "take")(cause), passes),`,
    to: `onFailure: (cause) => Effect.andThen(report(self.id, "take")(cause), refuse(self, 0)),`
  },
  {
    name: "store of limits that fails asked by every call",
    file: core("RateLimit.ts"),
    from: `if (++failures >= 3) restsUntil`,
    to: `if (++failures >= 1e9) restsUntil`
  },
  {
    name: "lease of a dead worker never lapses",
    file: core("internal/deferredMemory.ts"),
    from: `const due = held.row.state === "queued" ? held.visibleAt <= now : held.leaseUntil <= now`,
    to: `const due = held.row.state === "queued" && held.visibleAt <= now`,
    also: {
      file: core("internal/deferredMemory.ts"),
      from: `(held.row.state === "queued" || held.leaseUntil <= now)`,
      to: `held.row.state === "queued"`
    }
  },
  {
    name: "lease taken from a worker who lives",
    file: core("internal/backlog.ts"),
    from: `store.claim({ owner, now, leaseUntil: now + lease })`,
    to: `store.claim({ owner, now: now + lease / 2, leaseUntil: now + lease })`
  },
  {
    name: "lease prolonged by a worker who does not know of it",
    file: core("internal/deferredMemory.ts"),
    from: `for (const ticket of tickets) {`,
    to: `for (const ticket of [...tickets, ...pending.keys()]) {`,
    also: {
      file: core("internal/backlog.ts"),
      from: `return tickets.length === 0 ? Effect.void : store.renew(`,
      to: `return store.renew(`
    }
  },
  {
    name: "worker who dies with a request again and again",
    file: core("internal/backlog.ts"),
    from: `if (row.attempts > maxAttempts) {`,
    to: `if (row.attempts > 1e9) {`
  },
  {
    name: "restart forgets that a circuit was open",
    file: core("Circuit.ts"),
    from: `    case "Open":
      return { _tag: "Open", generation: 0, until: now + kept.remaining,`,
    to: `    case "Open":
      return { _tag: "Open", generation: 0, until: now,`
  },
  {
    name: "restart forgets what the window saw",
    file: core("Circuit.ts"),
    from: `tally: adopted(settings.trip, kept, now) }`,
    to: `tally: adopted(settings.trip, { ...kept, tally: emptyTally(settings.trip) }, now) }`
  },
  {
    name: "restart closes a half-open circuit",
    file: core("Circuit.ts"),
    from: `return { _tag: "Open", remaining: 0, openings: state.openings }`,
    to: `return { _tag: "Isolated", remaining: 0, because: "half-open" }`
  },
  {
    name: "letter queued again with its old attempts",
    file: core("internal/deferredMemory.ts"),
    from: `state: "queued", attempts: 0, expiresAt, note: undefined }`,
    to: `state: "queued", expiresAt, note: undefined }`
  },
  {
    name: "letter queued again for what was left of its life",
    file: core("internal/deferredMemory.ts"),
    from: `state: "queued", attempts: 0, expiresAt, note: undefined }`,
    to: `state: "queued", attempts: 0, expiresAt: Math.min(expiresAt, held.row.expiresAt), note: undefined }`
  },
  {
    name: "whatever has ended queued again",
    file: core("internal/deferredMemory.ts"),
    from: `if (held?.row.state !== "dead") return false`,
    to: `if (held === undefined) return false`
  }
]

const { values } = parseArgs({
  options: { only: { type: "string" }, mutant: { type: "string" }, seeds: { type: "string" } }
})
const seeds = Number(values.seeds ?? 1000)

/** Looks for one mutant: the import comes after the hook, so that the mutant is what is loaded. */
const hunt = async (mutant: Mutant): Promise<void> => {
  const changes: ReadonlyArray<Change> = [mutant, mutant.also ?? []].flat()
  let applied = 0
  registerHooks({
    load: (url, context, nextLoad) => {
      const loaded = nextLoad(url, context)
      if (loaded.source === undefined || loaded.source === null) return loaded
      let source = Buffer.from(loaded.source as Uint8Array).toString()
      for (const { file, from, to } of changes.filter(({ file }) => url.endsWith(file))) {
        if (source.split(from).length !== 2) throw new Error(`"${from}" is not in ${file} exactly once`)
        applied++
        source = source.replace(from, () => to)
      }
      return { ...loaded, source }
    }
  })
  const { Simulation } = await import("@llm-resilience/testing")
  const { failed, seeds: tried } = Simulation.explore({ seeds })
  if (applied !== changes.length) throw new Error(`${mutant.file} was not loaded`)
  console.log(JSON.stringify({ tried, invariant: failed?.violation?.invariant, detail: failed?.violation?.detail }))
}

const huntAll = (): void => {
  const chosen = mutants.filter(({ name }) => name.includes(values.only ?? ""))
  let survived = 0
  for (const { name } of chosen) {
    const child = spawnSync(
      process.execPath,
      [...process.execArgv, import.meta.filename, "--mutant", name, "--seeds", String(seeds)],
      { encoding: "utf8" }
    )
    const line = child.status === 0 ? (JSON.parse(child.stdout) as { tried: number; invariant?: string }) : undefined
    if (line?.invariant === undefined) survived++
    const verdict =
      line === undefined
        ? `could not be run: ${child.stderr.trim().split("\n").slice(0, 6).join("\n")}`
        : line.invariant === undefined
          ? `SURVIVED ${line.tried} seeds`
          : `found after ${String(line.tried).padStart(4)} seeds: ${line.invariant}`
    console.log(`${name.padEnd(50)} ${verdict}`)
  }
  console.log(`\n${chosen.length} mutants, ${survived} survived`)
  process.exitCode = survived === 0 && chosen.length > 0 ? 0 : 1
}

const chosen = mutants.find(({ name }) => name === values.mutant)
if (values.mutant === undefined) huntAll()
else if (chosen === undefined) throw new Error(`There is no mutant named "${values.mutant}"`)
else await hunt(chosen)
