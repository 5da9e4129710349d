"""What a reader of a manifest may ask, by the key that he asks it of."""

CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec"
WORKERS = f"{CLUSTER}.workerGroupSpecs"
POD = "template.spec"
BOX = "template.spec.containers"

NOTES = {
    "spec.entrypoint": (
        "Runs on the head, and is the whole sweep: the submitter's pod only hands it over and "
        "prints its output. Two shells read it one after the other, hence the quoting. --name and "
        "--storage make it resume what an earlier cluster began."
    ),
    "spec.backoffLimit": (
        "Each retry is a new cluster, on which the same command resumes the sweep from its storage."
    ),
    "spec.shutdownAfterJobFinishes": (
        "The cluster goes, after some seconds to look at it; what the sweep found is not on it."
    ),
    "spec.suspend": "Kueue sets it to false when the job's turn has come.",
    f"{CLUSTER}.rayVersion": "Must be that of the image's Ray.",
    f"{CLUSTER}.authOptions": (
        "Nobody runs code through the dashboard, the client's port or the control store without a "
        "token; KubeRay makes one and gives it to the pods."
    ),
    f"{CLUSTER}.autoscalerOptions.idleTimeoutSeconds": (
        "Longer than the pause between two trials; a pod with GPUs takes minutes to come back."
    ),
    f"{CLUSTER}.autoscalerOptions.securityContext": (
        "KubeRay adds the autoscaler's container to the head's pod; it is restricted like the rest."
    ),
    f"{CLUSTER}.gcsFaultToleranceOptions": (
        "Lets workers outlive the control store's process. A lost head takes the sweep's driver "
        "along: then backoffLimit makes a new cluster, and the sweep resumes from its storage."
    ),
    f"{HEAD}.rayStartParams.num-cpus": "No trial is put on the head, whose loss is the cluster's.",
    f"{HEAD}.rayStartParams.object-store-memory": "Bytes; a part of /dev/shm below.",
    f"{HEAD}.rayStartParams.object-spilling-directory": (
        "Where the object store puts what it cannot hold: a volume, as the root cannot be written."
    ),
    f"{HEAD}.{POD}.restartPolicy": "As autoscaler v2 wants it: KubeRay makes a new pod instead.",
    f"{HEAD}.{POD}.securityContext": (
        "With the container's own, the profile that Kubernetes calls restricted."
    ),
    f"{HEAD}.{BOX}.envFrom": "Secrets by name only: their content is in no manifest.",
    f"{HEAD}.{BOX}.resources": (
        "Requests equal limits: a pod that was promised more than it has is killed in the middle "
        "of a trial. Memory holds Ray's services and the driver, and /dev/shm, which counts too."
    ),
    f"{HEAD}.{BOX}.securityContext.readOnlyRootFilesystem": (
        "Ray writes to /tmp and /dev/shm, dfkd's cache is in the home: volumes, all of them."
    ),
    f"{HEAD}.{POD}.automountServiceAccountToken": (
        "The autoscaler, if there is one, asks Kubernetes for pods."
    ),
    f"{WORKERS}.replicas": (
        "The job is handed over when these are up, however long nodes take to come; from then on "
        "the autoscaler adds what trials wait for."
    ),
    f"{WORKERS}.rayStartParams": "num-cpus, num-gpus and memory are taken from the limits below.",
    f"{WORKERS}.{BOX}.resources": (
        "Memory is what trials use plus /dev/shm, which counts as memory as it fills."
    ),
    f"{WORKERS}.{POD}.tolerations": "Nodes with GPUs usually keep other pods away by this taint.",
    "spec.submitterPodTemplate": "Its output is the driver's: kubectl logs -f job/NAME.",
    "data": "The task's own file, as it was when the sweep was submitted.",
}
