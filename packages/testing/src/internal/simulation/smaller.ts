import { faults, type Plan, type Step, type Traffic } from "./plan.ts"

/** Plans that do a little less than this one, the largest cuts first. Whoever shrinks takes the first that still fails. */
export const smaller = (plan: Plan): ReadonlyArray<Plan> => {
  const { requests, steps, traffic } = plan
  const half = Math.ceil(requests.length / 2)
  const chunks = [half, Math.ceil(requests.length / 4), Math.ceil(requests.length / 10), 1].filter(
    (size, index, all) => size < requests.length && all.indexOf(size) === index
  )
  const fewer = chunks.flatMap((size) =>
    Array.from({ length: Math.min(12, Math.ceil(requests.length / size)) }, (_, index) => ({
      ...plan,
      requests: requests.toSpliced(index * size, size)
    }))
  )
  const withStep = (index: number, change: Partial<Step>): Plan => {
    const [first, ...others] = steps.map((step, at) => (at === index ? { ...step, ...change } : step))
    return first === undefined ? plan : { ...plan, steps: [first, ...others] }
  }
  const [lastStep] = steps.length > 1 ? [steps.length - 1] : []
  const plainer: ReadonlyArray<Plan> = [
    { ...plan, preemption: 0 },
    { ...plan, order: "fifo" },
    { ...plan, cache: undefined },
    { ...plan, deferred: undefined, requeues: [], traffic: { ...traffic, waits: 0 } },
    { ...plan, requeues: [] },
    ...fewerReplicas(plan),
    { ...plan, operator: [] },
    { ...plan, wallSteps: [] },
    ...(lastStep === undefined ? [] : [{ ...plan, steps: [steps[0], ...steps.slice(1, lastStep)] } as const]),
    ...(Object.keys(traffic) as ReadonlyArray<keyof Traffic>)
      .filter((name) => !["every", "questions", "scopes", "toolsets"].includes(name))
      .map((name) => ({ ...plan, traffic: { ...traffic, [name]: 0 } })),
    { ...plan, chain: { ...plan.chain, deadline: undefined } },
    { ...plan, chain: { ...plan.chain, hedge: undefined } },
    { ...plan, health: undefined }
  ]
  const calmer = steps.flatMap((step, index) => [
    withStep(index, { faults: {}, outages: [] }),
    withStep(index, { outages: [] }),
    ...faults
      .filter((fault) => fault in step.faults)
      .map((fault) => withStep(index, { faults: { ...step.faults, [fault]: 0 } })),
    withStep(index, { retry: undefined }),
    withStep(index, { cooldown: undefined }),
    withStep(index, { breaker: undefined }),
    withStep(index, { throttle: undefined }),
    withStep(index, { bulkhead: undefined }),
    withStep(index, { rateLimit: undefined }),
    withStep(index, { adaptive: undefined }),
    withStep(index, { budget: undefined }),
    withStep(index, { hedge: undefined }),
    withStep(index, { cleanup: 0 }),
    withStep(index, { spread: 0 }),
    withStep(index, { tokenEvery: 0 })
  ])
  const now = JSON.stringify(plan)
  return [...fewer, ...plainer, ...calmer].filter((candidate) => JSON.stringify(candidate) !== now)
}

const fewerReplicas = (plan: Plan): ReadonlyArray<Plan> => {
  const { replicas } = plan
  if (replicas === undefined) return []
  const { limit, stops } = replicas
  return [
    { ...plan, replicas: undefined },
    ...(limit === undefined
      ? []
      : [undefined, { ...limit, trouble: 0, outages: [] }, { ...limit, outages: [] }, { ...limit, trouble: 0 }].map(
          (limit) => ({ ...plan, replicas: { ...replicas, limit } })
        )),
    ...stops.map((_, index) => ({ ...plan, replicas: { ...replicas, stops: stops.toSpliced(index, 1) } })),
    { ...plan, replicas: { ...replicas, count: 1, stops: stops.filter(({ replica }) => replica === 0) } },
    { ...plan, replicas: { ...replicas, travel: 0 } },
    { ...plan, replicas: { ...replicas, trouble: 0 } }
  ]
}
